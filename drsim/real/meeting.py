"""Meeting: how a site and its peer come together: who listens, on which terms."""

from typing import TYPE_CHECKING

from drsim.core.units import SECOND
from drsim.real import pki
from drsim.real.transport import Connector, Listener, Terms

if TYPE_CHECKING:
    from drsim.real.installation import Installation


async def meet(here: "Installation") -> None:
    """Listen for the other site, or keep connecting to it. Raises PlatformError."""
    spec, site = here.spec, here.site
    link, tweaks = spec.link, spec.tweaks
    window = tweaks.window_bytes + max(tweaks.frame_bytes, tweaks.sync_bytes) + (64 << 20)
    contexts = None if spec.pki is None else pki.contexts(here.base / spec.pki)
    terms = Terms(
        tweaks.peer_timeout / SECOND, 8 * window, rate=None if link.rate is None else link.rate / 8,
        compress=link.compress, tls=None if contexts is None else contexts[link.listen is None],
        lost=here.distrust.vpgs, refused=lambda why: here.refused(why),
    )  # fmt: skip
    host, port = link.place
    if link.listen is not None:
        listener = Listener(spec.site, link.peer, site, terms)
        site.end = listener
        await listener.listen(host, port)
    else:
        site.end = Connector(spec.site, link.peer, site, host, port, terms)
    site.desk = here.desk.asked
