"""The emulated WAN: what one direction does to packets, exactly; and two namespaces with it between them."""

import os
import random
import subprocess
import sys

import pytest

from drsim.verify.emulator import Pipe, Settings
from drsim.verify.netns import EmulatedWan, lacking

PACKET = bytes(1000)


def pipe(**settings: float) -> Pipe:
    made = Pipe(random.Random(1))
    made.change(Settings(**settings))  # type: ignore[arg-type]
    return made


def test_packets_are_served_one_after_another_at_the_rate_and_come_a_delay_later() -> None:
    made = pipe(rate=1e6, delay=0.05, queue=1.0)
    for _ in range(3):
        made.put(PACKET, 10.0)
    assert made.next == pytest.approx(10.058)
    assert made.due(10.0579) == []
    assert len(made.due(10.0581)) == 1
    assert len(made.due(11)) == 2
    made.put(PACKET, 20.0)
    assert made.next == pytest.approx(20.058), "an idle link owes nothing"
    assert made.counters() == {"packets": 3, "bytes": 3000, "lost": 0, "overflowed": 0, "cut": 0}


def test_a_full_queue_drops_its_tail() -> None:
    made = pipe(rate=1e6, queue=0.1)
    for _ in range(100):
        made.put(PACKET, 0.0)
    assert made.overflowed == 100 - 13, "a tenth of a second is twelve packets, and one is under way"
    assert len(made.due(10)) == 13


def test_some_are_lost_and_an_outage_loses_all_that_is_on_the_way() -> None:
    made = pipe(loss=0.1)
    for n in range(10_000):
        made.put(PACKET, n * 0.001)
    assert made.lost == pytest.approx(1000, rel=0.1)
    made.change(Settings(up=False))
    assert made.due(100) == []
    made.put(PACKET, 100)
    assert made.cut == 10_000 - made.lost + 1


SERVER = """
import socket, sys, time
with socket.create_server(("10.99.0.2", 5000)) as listener:
    print("listens", flush=True)
    client, _ = listener.accept()
    begun, got = time.monotonic(), 0
    while data := client.recv(1 << 16):
        got += len(data)
    print(got * 8 / (time.monotonic() - begun))
"""
CLIENT = """
import socket
with socket.create_connection(("10.99.0.2", 5000)) as client:
    client.sendall(bytes(2_000_000))
"""


def test_tcp_between_two_namespaces_gets_what_the_link_carries() -> None:
    if why := lacking():
        if os.environ.get("DRSIM_REQUIRE") == "all":
            pytest.fail(f"needs {why}")
        pytest.skip(f"needs {why}")
    with EmulatedWan(Settings(rate=20e6, delay=0.005, queue=0.1)) as wan:
        here, there = wan.namespaces
        words = [*wan.inside(there), sys.executable, "-c", SERVER]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            server.stdout.readline()
            subprocess.run([*wan.inside(here), sys.executable, "-c", CLIENT], check=True, timeout=60)
            rate = float(server.stdout.readline())
        carried = wan.counters()["forth"]["bytes"]
    assert rate < 20e6, "no more than the link has"
    assert 2_000_000 * 1500 / 1448 < carried < 2_000_000 * 1.1, "headers are counted"
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in listed for name in wan.namespaces), "nothing is left"
