"""Small models for tests: one protected host, one recovery host, one link, changed as a test needs."""

from typing import Any

from drsim.spec.model import Model

SECOND = 10**9
MIB = 1 << 20


def two_site(
    *,
    rate: float = 100.0,
    size: str = "8 KiB",
    vms: int = 1,
    hosts: int = 1,
    workload: dict[str, Any] | None = None,
    link: dict[str, Any] | None = None,
    vpg: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    vra: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    **model: Any,
) -> Model:
    """A model with VPG "crm" of `vms` equal VMs on `hosts` protected hosts; compression off unless asked for."""
    return Model.model_validate(
        {
            "sites": {"london": {"lan_jitter": "0 ms"}, "leeds": {"lan_jitter": "0 ms"}},
            "datastores": {"san-1": {"site": "london"}, "san-2": {"site": "leeds", **(store or {})}},
            "hosts": {
                **{f"london-{n + 1}": {"site": "london", "vra": vra or {}} for n in range(hosts)},
                "leeds-1": {"site": "leeds", "vra": vra or {}},
            },
            "links": {
                "wan": {"between": ["london", "leeds"], "bandwidth": "100 Mbit/s", "latency": "5 ms", **(link or {})}
            },
            "vms": {
                "app": {
                    "host": [f"london-{n + 1}" for n in range(hosts)],
                    "datastore": "san-1",
                    "count": vms,
                    "workload": workload or {"kind": "constant", "rate": rate, "size": size},
                }
            },
            "vpgs": {
                "crm": {
                    "vms": ["app"],
                    "compression": False,
                    "recovery": {"hosts": ["leeds-1"], "datastore": "san-2"},
                    **(vpg or {}),
                }
            },
            "run": {"until": "5 min", **(run or {})},
            **model,
        }
    )
