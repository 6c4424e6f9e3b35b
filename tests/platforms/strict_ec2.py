"""A strict EC2 over moto's: addresses free and in their subnet, hosts that are lost, adapters that come and go."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from typing import Any
from unittest.mock import patch

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_network_interfaces import NetworkInterfaceBackend
from moto.ec2.models.instances import InstanceBackend

Method = Callable[..., Any]


def _create_network_interface(real: Method) -> Method:
    def create_network_interface(self: Any, subnet: Any, private_ip_address: Any, *args: Any, **kwargs: Any) -> Any:
        where = self.get_subnet(subnet) if isinstance(subnet, str) else subnet
        if private_ip_address:
            cidr = ip_network(where.cidr_block)
            if not cidr[4] <= ip_address(private_ip_address) <= cidr[-2]:  # type: ignore[operator]
                raise EC2ClientError("InvalidParameterValue", f"{private_ip_address} is not in {cidr}")
            if any((e.subnet.id, e.private_ip_address) == (where.id, private_ip_address) for e in self.enis.values()):
                raise EC2ClientError("InvalidIPAddress.InUse", f"Address {private_ip_address} is in use")
        return real(self, subnet, private_ip_address, *args, **kwargs)

    return create_network_interface


def _delete_network_interface(real: Method) -> Method:
    def delete_network_interface(self: Any, eni_id: str) -> Any:
        if eni_id in self.enis and self.enis[eni_id].instance is not None:
            raise EC2ClientError("InvalidParameterValue", f"Network interface '{eni_id}' is currently in use.")
        return real(self, eni_id)

    return delete_network_interface


def _run_instances(real: Method) -> Method:
    def run_instances(self: Any, image_id: str, count: int, *args: Any, **kwargs: Any) -> Any:
        host = self.hosts.get(kwargs.get("placement_hostid"))
        if kwargs.get("placement_hostid") and (host is None or host.state != "available"):
            raise EC2ClientError("InsufficientCapacityOnHost", "There is not enough capacity on the Dedicated Host")
        for nic in kwargs.get("nics", []):
            if nic.get("NetworkInterfaceId") and self.enis[nic["NetworkInterfaceId"]].instance is not None:
                raise EC2ClientError("InvalidNetworkInterface.InUse", "the interface is in use")
        before, tags = set(self.enis), kwargs.get("tags", {}).get("network-interface", {})
        made = real(self, image_id, count, *args, **kwargs)
        for instance in made.instances:
            for nic in instance.nics.values():
                if nic.id not in before:  # what comes with an instance goes with it
                    nic.delete_on_termination = True
                    nic.add_tags(tags)
        return made

    return run_instances


def _terminate_instances(real: Method) -> Method:
    def terminate_instances(self: Any, instance_ids: list[str]) -> Any:
        for instance in self.get_multi_instances_by_id(instance_ids):
            instance._state.name = "shutting-down"
            for nic in instance.nics.values():  # what did not come with the instance is free again
                nic.instance, nic.attachment_id, nic.status = None, None, "available"
        return real(self, instance_ids)

    return terminate_instances


def _start_instances(real: Method) -> Method:
    def start_instances(self: Any, instance_ids: list[str]) -> Any:
        for instance in self.get_multi_instances_by_id(instance_ids):
            if instance.state not in ("stopped", "running"):
                raise EC2ClientError("IncorrectInstanceState", f"{instance.id} is {instance.state}")
            if instance.root_device_name not in instance.block_device_mapping:
                message = f"Invalid value '{instance.id}' for instanceId. Instance does not have a volume at its root"
                raise EC2ClientError("IncorrectInstanceState", message)
        return real(self, instance_ids)

    return start_instances


def _stop_instances(real: Method) -> Method:
    def stop_instances(self: Any, instance_ids: list[str]) -> Any:
        for instance in self.get_multi_instances_by_id(instance_ids):
            if instance.state not in ("stopped", "running"):
                raise EC2ClientError("IncorrectInstanceState", f"{instance.id} is {instance.state}")
        return real(self, instance_ids)

    return stop_instances


@contextmanager
def strict() -> Iterator[None]:
    """These rules for all of moto in this process."""
    rules = {
        NetworkInterfaceBackend: (_create_network_interface, _delete_network_interface),
        InstanceBackend: (_run_instances, _terminate_instances, _start_instances, _stop_instances),
    }
    with ExitStack() as patched:
        for backend, methods in rules.items():
            for made in methods:
                name = made.__name__[1:]
                patched.enter_context(patch.object(backend, name, made(getattr(backend, name))))
        yield
