"""A vCenter for the tests of a module."""

from collections.abc import Iterator

import pytest
from platforms.vcenter import VCenter, vcenter
from platforms.vsphere_arm import certificates


@pytest.fixture(scope="module")
def shared() -> Iterator[VCenter]:
    with vcenter(certificates() / "server.pem") as center:
        yield center


@pytest.fixture
def center(shared: VCenter) -> Iterator[VCenter]:
    """A vCenter that others have used; its proxy does nothing special."""
    after, instead = list(shared.proxy.after), dict(shared.proxy.instead)
    yield shared
    shared.proxy.rules, shared.proxy.after, shared.proxy.instead = [], after, instead
