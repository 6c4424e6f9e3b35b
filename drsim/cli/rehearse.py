"""`--rehearse`: an operation on a real VPG, first simulated with what was measured at its site, then set beside it."""

from typing import Any

from drsim.cli.manager import Manager, console

SECTOR, SECOND = 512, 10**9
_RATE = 10.0
"""Writes a second of each VM; neither RPO nor RTO depends on it much."""


def rehearse(manager: Manager, vpg: str, wish: dict[str, Any]) -> dict[str, Any]:
    """Refusals, and the RPO and RTO that are to be expected: least, middle, most. Changes nothing."""
    from drsim.study.expected import ExpectedVm, durations, expected

    refused = manager.ask("POST", "/operations", {"wish": {**wish, "vpg": vpg}, "dry_run": True})["refused"]
    spec = manager.ask("GET", f"/vpgs/{vpg}")
    steps = [step for each in manager.ask("GET", "/operations") for step in each["steps"]]
    took = durations(steps)
    vms = [
        ExpectedVm(vm["name"], sum(v["sectors"] for v in vm["volumes"]) * SECTOR, _RATE, vm["group"])
        for vm in spec["vms"] if not wish["vms"] or vm["name"] in wish["vms"]
    ]  # fmt: skip
    interval = spec["epochs"] or spec["interval"]
    disaster = wish["kind"] != "failover test"
    found = expected(vms, interval, took, disaster=disaster, boot_delay=spec["boot_delay"])
    return {"refused": refused, "measured_before": took, **found}


def show(found: dict[str, Any]) -> None:
    """In words."""
    say = console()
    for reason in found["refused"]:
        say.print(f"would be refused: {reason}", highlight=False)
    say.print(f"expected: RPO {_span(found['rpo_s'])}, RTO {_span(found['rto_s'])}", highlight=False)
    if found["measured_before"]:
        parts = ", ".join(f"{kind.replace('_', ' ')} {s:.2f} s" for kind, s in found["measured_before"].items())
        say.print(f"  from operations measured here: {parts}", highlight=False)
    else:
        say.print("  no operation was measured here yet: the model's durations; a test brings better", highlight=False)


def beside(found: dict[str, Any], report: dict[str, Any]) -> None:
    """What was expected beside what came of it."""
    for name in ("rpo_s", "rto_s"):
        real, (low, _, high) = report.get(name), found[name]
        if real is not None:
            how = "as expected" if low <= real <= high else "better than expected" if real < low else "worse"
            label = name[:3].upper()
            console().print(f"  {label}: {real:.2f} s, {how} ({_span(found[name])})", highlight=False)


def _span(values: list[float]) -> str:
    low, middle, high = values
    return f"{middle:.2f} s ({low:.2f} to {high:.2f})"
