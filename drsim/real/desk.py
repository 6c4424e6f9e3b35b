"""Desk: what the managers of two sites ask each other, beside the core's messages.

    Adopt            the target remembers a VPG and begins its catalogue          (source asks)
    Drop             a VPG is gone                                                (source asks)
    LookAtSource     which VMs of a VPG could be asked to shut down               (target asks, as all below)
    StopVm StartVm   power of a VM at the source, for an operation
    DropVm           a VM of the source was moved: delete it
    TakeTag          ask for a checkpoint under a name
    KeepAside Regions PutBack SettleAside      a volume is restored in its place (`restoring.py`)
    TurnRound        a VPG goes the other way from now on (`reverse.py`); asked again until it is ready

Requests and answers are JSON over the sites' connection, checked like everything that comes from outside; an answer may
be an error in words. What is asked again, because an answer was lost, does nothing twice.
"""

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from drsim.core.errors import DrsimError, FileError, PeerError, PlatformError
from drsim.spec.base import Spec
from drsim.spec.live import LiveVpg, VpgState

if TYPE_CHECKING:
    from drsim.real.installation import Installation


class Adopt(Spec):
    """Remember this VPG, and take its checkpoints."""

    do: Literal["adopt"] = "adopt"
    vpg: LiveVpg


class Drop(Spec):
    """Forget this VPG: it was deleted."""

    do: Literal["drop"] = "drop"
    vpg: str


class LookAtSource(Spec):
    """Which of its VMs have guest tools?"""

    do: Literal["look"] = "look"
    vpg: str


class StopVm(Spec):
    """Shut a VM down; with `force` by power when it has not stopped after `timeout` seconds."""

    do: Literal["stop"] = "stop"
    vpg: str
    vm: int
    force: bool
    timeout: float


class StartVm(Spec):
    """Let a VM run again."""

    do: Literal["start"] = "start"
    vpg: str
    vm: int


class DropVm(Spec):
    """Delete a VM that was moved; its disks stay."""

    do: Literal["drop vm"] = "drop vm"
    vpg: str
    vm: int


class TakeTag(Spec):
    """Take a checkpoint under a tag."""

    do: Literal["tag"] = "tag"
    vpg: str
    tag: str


class TurnRound(Spec):
    """Take the data of a VPG from now on whose VMs were recovered there."""

    do: Literal["turn round"] = "turn round"
    vpg: LiveVpg
    generation: int


class KeepAside(Spec):
    """Keep what a volume holds, for an operation that restores it in its place."""

    do: Literal["keep aside"] = "keep aside"
    vpg: str
    volume: int
    operation: int


class Regions(Spec):
    """Digests of the regions of a stretch of a volume; offset and size in bytes."""

    do: Literal["regions"] = "regions"
    vpg: str
    volume: int
    operation: int
    offset: int
    size: int


class PutBack(Spec):
    """Write a region of a volume that is being restored. `data`: base64."""

    do: Literal["put back"] = "put back"
    vpg: str
    volume: int
    operation: int
    offset: int
    data: str


How = Literal["restored", "undo", "keep"]


class SettleAside(Spec):
    """All was written; or what was kept is put back; or it is not needed any more."""

    do: Literal["settle aside"] = "settle aside"
    vpg: str
    volume: int
    operation: int
    how: How


Restores = KeepAside | Regions | PutBack | SettleAside
Request = Adopt | Drop | LookAtSource | StopVm | StartVm | DropVm | TakeTag | TurnRound | Restores
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])
PATIENCE = 30.0
"""Seconds until an answer must have come; `StopVm` has its own on top."""


class Answer(Spec):
    """What came of a request. `error`: why nothing did. `vms`: of LookAtSource. `ready`: whether it is done.

    `data`: of Regions.
    """

    error: str = ""
    hint: str = ""
    vms: tuple[int, ...] = ()
    ready: bool = True
    data: str = ""


AGAIN = 0.5
"""Seconds between attempts to tell the other manager what it has to hear."""
AWAY = 60.0
"""Seconds that the other site may be away while something is waited for there, before that is given up."""
POLL = 0.02
"""Seconds between looks at whether it is ready."""


class Desk:
    """One site's."""

    def __init__(self, site: "Installation") -> None:
        self._site = site

    async def ask(self, request: Request) -> Answer:
        """Ask the other site's manager. Raises PlatformError when it cannot be reached, FileError when it refuses."""
        end = self._site.site.end
        peer = self._site.spec.link.peer
        if end is None or not end.connected:
            why = "" if end is None or end.error is None else f": {end.error.message}"
            raise PlatformError(f"site {peer} cannot be reached{why}", place=self._site.spec.site)
        patience = PATIENCE + (request.timeout if isinstance(request, StopVm) else 0)
        text = await end.ask(request.model_dump_json(), patience)
        try:
            answer = Answer.model_validate_json(text)
        except ValidationError as error:
            raise PeerError(f"site {peer} answers what cannot be: {error}", place=self._site.spec.site) from error
        if answer.error:
            raise FileError(answer.error, place=peer, hint=answer.hint)
        return answer

    async def insist(self, request: Request) -> None:
        """Ask until there is an answer. Raises nothing that time may cure."""
        while True:
            try:
                await self.ask(request)
            except PlatformError:
                await asyncio.sleep(AGAIN)
            else:
                return

    async def insist_ready(self, request: Request, *, away: float = AWAY) -> None:
        """Ask until it is ready. Raises PlatformError when the other site was away for more than `away` seconds."""
        clock = asyncio.get_running_loop().time
        heard = clock()
        while True:
            try:
                if (await self.ask(request)).ready:
                    return
                heard = clock()
            except PlatformError:
                if clock() > heard + away:
                    raise
            await asyncio.sleep(POLL)

    async def asked(self, text: str) -> str:
        """The other site's manager asks. Never raises."""
        try:
            request = _REQUEST.validate_json(text)
            answer = await self._carry_out(request)
        except ValidationError as error:
            answer = Answer(error=f"a request that cannot be: {error.errors()[0]['msg']}")
        except DrsimError as error:
            answer = Answer(error=error.message, hint=error.hint)
        return answer.model_dump_json()

    async def _carry_out(self, request: Request) -> Answer:
        here = self._site
        match request:
            case Adopt(vpg=vpg):
                if (vpg.source, vpg.target) != (here.spec.link.peer, here.spec.site):
                    raise FileError(f"VPG {vpg.name} does not go from {here.spec.link.peer} to {here.spec.site}")
                here.adopt(VpgState(vpg=vpg))
            case Drop(vpg=name):
                if name in here.state.state.vpgs and here.known(name).vpg.source == here.spec.link.peer:
                    here.forget(name)
            case LookAtSource(vpg=name):
                return Answer(vms=tuple(vm.id for vm in here.known(name).vpg.vms if vm.tools))
            case StopVm(vpg=name, vm=vm, force=force, timeout=timeout):
                await self._stop(name, vm, timeout, force=force)
            case StartVm(vpg=name, vm=vm):
                here.restoring.check(self._name(name, vm))
                await here.machines.power_on(self._name(name, vm))
            case DropVm(vpg=name, vm=vm):
                await here.machines.power_off(self._name(name, vm))
            case TakeTag(vpg=name, tag=tag):
                if here.elsewhere is not None:
                    await here.elsewhere.epoch(name)
                here.tag(name, tag)
            case KeepAside():
                return Answer(ready=here.restoring.keep_aside(request))
            case Regions():
                return Answer(data=here.restoring.regions(request))
            case PutBack():
                await here.restoring.put_back(request)
            case SettleAside():
                return Answer(ready=here.restoring.settle(request))
            case TurnRound():
                return Answer(ready=here.reversal.turn_round(request))
        return Answer()

    def _name(self, vpg: str, vm: int) -> str:
        known = self._site.known(vpg).vpg
        found = [each.name for each in known.vms if each.id == vm and known.source == self._site.spec.site]
        if not found:
            raise FileError(f"VPG {vpg} has no VM {vm} here")
        return found[0]

    async def _stop(self, vpg: str, vm: int, timeout: float, *, force: bool) -> None:
        hypervisor, name = self._site.hypervisor, self._name(vpg, vm)
        known = next(each for each in self._site.known(vpg).vpg.vms if each.id == vm)
        if self._site.elsewhere is not None:
            await self._site.elsewhere.shut_down(name, timeout, force=force, tools=known.tools)
            return
        stopped = await hypervisor.shut_down(name, timeout) if known.tools else hypervisor.pid(name) is None
        if not stopped and not force:
            raise PlatformError(f"VM {name} has not stopped within {timeout:g} s", hint="use force")
        await hypervisor.power_off(name)
