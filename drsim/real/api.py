"""API: a live site's manager over HTTP.

    GET    /status  /vms  /vpgs/{vpg}/checkpoints  /operations  /operations/{n}  /events  /metrics  /openapi.json
    POST   /vpgs  /vpgs/{vpg}/checkpoints|pause|resume|sync  /vms/{vm}/power|record
           /operations  /operations/{n}/decision
    DELETE /vpgs/{vpg}

Until the site is *armed* everything that changes something is refused; an operation that is asked for with `dry_run`
answers with its plan and what would refuse it, armed or not. Errors are JSON: what, where, what to do.
"""

import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

import drsim
from drsim.core.errors import DrsimError, FileError
from drsim.core.events import Verdict
from drsim.core.facts import StateChanged
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery.facts import refusals
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.status import project
from drsim.core.units import SECOND
from drsim.core.vpg import Vpg
from drsim.real.clock import now_ns
from drsim.real.elsewhere import DEFAULT
from drsim.real.inspection import inspect
from drsim.real.installation import Installation
from drsim.real.planning import Wish, vpg_of
from drsim.real.scrub import scrub_site
from drsim.spec.base import Name, Spec


class NewVpg(Spec):
    """A VPG of this site's VMs. Times in seconds."""

    name: Name
    vms: tuple[str, ...]
    target_host: str | tuple[str, ...]
    interval: float = Field(5.0, ge=0.1)
    history: float = Field(24 * 3600.0, ge=1)
    rpo_alert: float = Field(300.0, ge=1)
    journal_bytes: int | None = None
    epochs: float | None = Field(None, ge=0.1)
    """Between snapshots, of VMs on a platform; none: a minute."""
    groups: dict[str, int] = {}
    """Boot groups of VMs; those in none boot first."""
    boot_delay: float = Field(0.0, ge=0)


class NewCheckpoint(Spec):
    """A name for a checkpoint that is to be taken now."""

    tag: str = Field(min_length=1, max_length=200)


class Decision(Spec):
    """What an operator decides about an operation."""

    verdict: Verdict
    note: str = ""


class Power(Spec):
    """Whether a VM is to run, or to be recorded."""

    on: bool


class NewOperation(Spec):
    """An operation; with `dry_run` only its plan."""

    wish: Wish
    dry_run: bool = False


def api(site: Installation, *, armed: bool) -> FastAPI:
    """The application of a running site."""
    app = FastAPI(title=f"drsim site {site.spec.site}", version=drsim.__version__)

    @app.exception_handler(DrsimError)
    async def said(request: Request, error: DrsimError) -> JSONResponse:
        code = 409 if isinstance(error, FileError) else 503
        return JSONResponse({"error": error.message, "place": error.place, "hint": error.hint}, code)

    def arms() -> None:
        if not armed:
            hint = f"`drsim site up --armed` lets site {site.spec.site} change something; --dry-run shows what it would"
            raise FileError("the site is not armed", place=site.spec.site, hint=hint)

    _look(app, site)
    _protect(app, site, arms)
    _steer_vms(app, site, arms)
    _recover(app, site, arms)
    return app


def _look(app: FastAPI, site: Installation) -> None:
    @app.get("/status")
    async def status() -> dict[str, Any]:
        """The site, its connection and its VPGs."""
        return status_of(site)

    @app.get("/vms")
    async def vms() -> list[dict[str, Any]]:
        """All VMs that exist here, and whether they run."""
        if site.elsewhere is not None:
            return [asdict(vm) for vm in await site.elsewhere.platform.inventory.vms()]
        hypervisor = site.hypervisor
        return [
            asdict(vm) | {"pid": hypervisor.pid(name), "paused": name in hypervisor.stopped}
            for name, vm in hypervisor.vms().items()
        ]

    @app.get("/vpgs/{vpg}")
    async def vpg_(vpg: str) -> dict[str, Any]:
        """What a VPG consists of."""
        return site.known(vpg).vpg.model_dump(mode="json")

    @app.get("/vpgs/{vpg}/checkpoints")
    async def checkpoints(vpg: str) -> list[dict[str, Any]]:
        """What can be recovered from, oldest first; at the recovery site."""
        notes = site.known(vpg).notes
        return [
            {"checkpoint": c.id, "taken": c.taken / SECOND, "tag": c.tag, "note": notes.get(c.id, "")}
            for c in site.listed(vpg)
        ]

    @app.get("/events")
    async def events() -> list[dict[str, Any]]:
        """The last facts, oldest first."""
        return [{"at": at / SECOND, "fact": type(fact).__name__, "what": str(fact)} for at, fact in site.facts]

    @app.post("/scrub")
    async def scrub() -> dict[str, Any]:
        """Read everything again that a recovery may need, and say what of it does not verify. Takes its time."""
        return (await scrub_site(site)).plain()

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(metrics_of(site))


def _epochs(site: Installation, wanted: float | None) -> int | None:
    """Nanoseconds; none where writes are captured one by one. Raises FileError."""
    if site.elsewhere is not None:
        return DEFAULT if wanted is None else int(wanted * SECOND)
    if wanted is not None:
        raise FileError("writes of VMs on this machine are captured one by one", place="epochs", hint="leave it out")
    return None


def _protect(app: FastAPI, site: Installation, arms: Callable[[], None]) -> None:
    @app.post("/vpgs")
    async def protect(new: NewVpg) -> dict[str, Any]:
        """Protect VMs of this site."""
        arms()
        vpg = vpg_of(
            site.spec, site.state.state, new.name, new.vms, new.target_host, interval=int(new.interval * SECOND),
            history=int(new.history * SECOND), rpo_alert=int(new.rpo_alert * SECOND), journal=new.journal_bytes,
            epochs=_epochs(site, new.epochs), groups=new.groups, boot_delay=int(new.boot_delay * SECOND),
        )  # fmt: skip
        await site.protect(vpg)
        return {"vpg": new.name}

    @app.delete("/vpgs/{vpg}")
    async def delete(vpg: str, keep_disks: bool = False) -> dict[str, Any]:
        """Protect it no more, and delete its journals and mirrors at the other site."""
        arms()
        site.delete(vpg, keep_disks=keep_disks)
        return {"vpg": vpg}

    @app.post("/vpgs/{vpg}/checkpoints")
    async def checkpoint(vpg: str, new: NewCheckpoint) -> dict[str, Any]:
        """Take a checkpoint now, under a name."""
        arms()
        site.tag(vpg, new.tag)
        return {"tag": new.tag}

    @app.post("/vpgs/{vpg}/{what}")
    async def steer(vpg: str, what: str) -> dict[str, Any]:
        """pause, resume, or sync: compare everything."""
        arms()
        match what:
            case "pause" | "resume":
                site.pause(vpg, paused=what == "pause")
            case "sync":
                site.force_sync(vpg)
            case _:
                raise FileError(f"a VPG cannot {what!r}", place=site.spec.site, hint="pause, resume or sync")
        return {"vpg": vpg}


def _steer_vms(app: FastAPI, site: Installation, arms: Callable[[], None]) -> None:
    @app.post("/vms/{vm}/record")
    async def record(vm: str, power: Power) -> dict[str, Any]:
        """Begin to record what a VM writes, or end it."""
        path, writes = site.own.record(vm, on=power.on)
        return {"vm": vm, "file": str(path), "writes": writes}

    @app.post("/vms/{vm}/power")
    async def power(vm: str, power: Power) -> dict[str, Any]:
        """Start a VM, or pull its plug."""
        arms()
        if site.elsewhere is not None:
            await (site.machines.power_on if power.on else site.machines.power_off)(vm)
            return {"vm": vm, "power": (await site.elsewhere.platform.inventory.vm(vm)).power}
        site.hypervisor.vm(vm)
        if power.on:
            site.restoring.check(vm)
            await site.hypervisor.power_on(vm)
            await site.hypervisor.wait(vm, 60)
        else:
            await site.hypervisor.power_off(vm)
        return {"vm": vm, "pid": site.hypervisor.pid(vm)}


def _recover(app: FastAPI, site: Installation, arms: Callable[[], None]) -> None:
    @app.post("/operations")
    async def operate(new: NewOperation) -> dict[str, Any]:
        """Begin an operation; with `dry_run` say what it would do, and what refuses it now."""
        plan = site.recoveries.plan(new.wish)
        if new.dry_run:
            refused = refusals(plan, await inspect(site, plan))
            vms = [{"vm": vm.name, "host": vm.host, "group": vm.group} for vm in plan.vms]
            return {"kind": plan.kind.value, "vpg": plan.vpg, "vms": vms, "refused": list(refused)}
        arms()
        return {"operation": site.recoveries.begin(plan)}

    @app.get("/operations")
    async def operations() -> list[dict[str, Any]]:
        """All operations, oldest first."""
        over = site.recoveries.history.reports()
        numbers = sorted({*over, *site.recoveries.running})
        return [site.recoveries.status(number) for number in numbers]

    @app.get("/operations/{number}")
    async def operation(number: int) -> dict[str, Any]:
        """How far one is, or its report."""
        return site.recoveries.status(number)

    @app.post("/operations/{number}/decision")
    async def decide(number: int, decision: Decision) -> dict[str, Any]:
        """Commit, roll back or cancel it; a test ends with `commit` and a note."""
        arms()
        site.recoveries.decide(number, decision.verdict, decision.note)
        return {"operation": number}


class Keyed:
    """The application for those who show its token (RFC 6750); everybody else is refused, and `refused` hears of it."""

    def __init__(self, app: ASGIApp, token: str, refused: Callable[[str], None]) -> None:
        self._app, self._key, self._refused = app, f"Bearer {token}".encode(), refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        shown = dict(scope["headers"]).get(b"authorization", b"")
        if secrets.compare_digest(shown, self._key):
            await self._app(scope, receive, send)
            return
        host = (scope.get("client") or ("somebody",))[0]
        self._refused(f"{host} asked the API with {'a wrong' if shown else 'no'} token")
        said = {"error": "the token is not the site's", "place": "", "hint": "it is in the file api.token of the site"}
        await JSONResponse(said, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)


def status_of(site: Installation) -> dict[str, Any]:
    """What a site says of itself: its connection, and each VPG as far as this side knows it."""
    end = site.site.end
    connected = end is not None and end.connected
    regions = {fact.vpg: fact for _, fact in site.facts if isinstance(fact, StateChanged)}
    vpgs = []
    for name, known in site.state.state.vpgs.items():
        row: dict[str, Any] = {
            "vpg": name, "from": known.vpg.source, "to": known.vpg.target, "vms": [vm.name for vm in known.vpg.vms],
            "generation": known.generation, "fenced": known.fenced, "recovered": bool(known.recovered),
        }  # fmt: skip
        machine = site.site.kernel.machines.get(site.manager(name))
        if isinstance(machine, Vpg):
            status, sub = project(machine.regions)
            row |= {"status": status.value, "sub_status": sub, "paused": known.paused}
            row["cause"] = regions[name].cause if name in regions else ""
            row["rpo_s"] = None if machine.newest is None else max(0, now_ns() - machine.newest) / SECOND
        else:
            row["checkpoints"] = len(site.listed(name))
            row["newest"] = site.listed(name)[-1].taken / SECOND if row["checkpoints"] else None
            possible = "recovery possible" if row["checkpoints"] else "no checkpoint yet"
            row["status"] = "Recovered" if known.recovered else possible
        vpgs.append(row)
    why = "" if connected or end is None or end.error is None else end.error.message
    peer = {"site": site.spec.link.peer, "connected": connected, "error": why}
    machines = site.site.kernel.machines.values()
    stores = {str(s): why for vra in machines if isinstance(vra, RecoveryVra) for s, why in vra.failing.items()}
    return {
        "site": site.spec.site, "peer": peer, "vpgs": vpgs, "failure": str(site.site.failure or ""),
        "damaged": {stream: error.message for stream, error in site.distrust.damaged.items()},
        "missing": {export: str(error) for export, error in site.own.missing.items()}, "stores": stores,
        "failing": {} if site.elsewhere is None else dict(site.elsewhere.failing),
    }  # fmt: skip


def metrics_of(site: Installation) -> str:
    """Gauges in Prometheus' text format. Bytes, seconds and counts."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"drsim_{name}", text, labels, registry=registry)

    end = site.site.end
    gauge("peer_connected", "1 when the other site can be reached").set(end is not None and end.connected)
    gauge("link_sent_bytes", "Bytes sent to the other site").set(0 if end is None else end.sent)
    gauge("link_queued_bytes", "Bytes that wait for the link").set(0 if end is None else end.queued)
    used = gauge("vra_buffer_used_bytes", "Buffer of a protected VRA in use", "vra")
    behind = gauge("vra_behind_bytes", "Bytes that the other side may not have yet, of a protected VRA", "vra")
    for address, machine in site.site.kernel.machines.items():
        if isinstance(machine, ProtectedVra):
            used.labels(address).set(machine.used)
            behind.labels(address).set(machine.used + sum(s.bitmap.nbytes for s in machine.senders.values()))
    if holds := sorted(site.site.holds.seconds):
        held = gauge("hold_seconds", "How long guests waited for a checkpoint", "quantile")
        for quantile in (0.5, 0.99):
            held.labels(str(quantile)).set(holds[int(quantile * (len(holds) - 1))])
    rpo = gauge("vpg_rpo_seconds", "Age of the newest listed checkpoint", "vpg")
    listed = gauge("vpg_checkpoints", "Checkpoints that can be recovered from", "vpg")
    for row in status_of(site)["vpgs"]:
        if row.get("rpo_s") is not None:
            rpo.labels(row["vpg"]).set(row["rpo_s"])
        if "checkpoints" in row:
            listed.labels(row["vpg"]).set(row["checkpoints"])
    return generate_latest(registry).decode()
