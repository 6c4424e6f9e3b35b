"""Parameters from live runs: what the protocol adds, the store, the link's goodput, how long things take.

parameter    from                        how
-----------  --------------------------  -----------------------------------------------------------------------
framing      the format; thin and thick  28 bytes a write and 52 a packet are the format's; bytes a frame, so that
                                         the two runs, one of many small frames, one of few large, add up
store        thin and thick              what the listing of a checkpoint takes longer than without it, the median
goodput      full                        how much longer the link is busy than its bare rate would have it
reconnect    short cut                   from the end of the cut until the sites are connected again
layout       one guest, three guests     disks are laid out one after another, each as long as its journal is
hypervisor   likewise                    guests start as many at a time as there are cores: seconds for each turn
"""

import os
import statistics
from dataclasses import replace
from typing import Any

from predict import Seen, measures, of_live, of_simulated, undisturbed
from scenarios import CALIBRATION, SECOND, Parameters

SECTOR = 512
WRITE, PACKET = 28, 52
"""Bytes of a write's columns (`drsim/real/envelope.py`), of the headers of IP and of TCP with its timestamps."""


def lag(seen: Seen) -> float:
    """How long after it was taken a checkpoint is listed, the median."""
    return statistics.median(at - taken for at, taken in zip(seen.listed, seen.taken, strict=True) if at > 0)


def calibrate(records: dict[str, Any]) -> Parameters:
    """From the records of the calibration runs, each a list of repetitions."""
    live = {name: [of_live(CALIBRATION[name], record) for record in records[name]] for name in CALIBRATION}
    found = Parameters(framing={"write": WRITE, "packet": PACKET, "frame": 0})
    pair = ("thin", "thick")
    for _ in range(2):  # the second time around the rounding to whole packets
        sims = {name: of_simulated(CALIBRATION[name], found) for name in pair}
        lacking = sum(_mean(seen.wan_bytes for seen in live[name]) - sims[name].wan_bytes for name in pair)
        frame = found.framing["frame"] + lacking / sum(sims[name].frames for name in pair)
        found = replace(found, framing={**found.framing, "frame": round(frame)})
    slower = [_mean(map(lag, live[name])) - lag(of_simulated(CALIBRATION[name], found)) for name in pair]
    found = replace(found, store=max(0.0, _mean(slower)))
    on = float(CALIBRATION["full"].workloads[0]["on"].split()[0])
    drains = [
        _mean(on + measures(CALIBRATION["full"], seen)["drain_s"] for seen in seens)
        for seens in ([of_simulated(CALIBRATION["full"], found)], live["full"])
    ]
    found = replace(found, goodput=drains[0] / drains[1])
    return replace(
        found,
        reconnect=_mean(record["met_s"] - record["back_s"] for record in records["short cut"]),
        **_platform(records),
    )


def _platform(records: dict[str, Any]) -> dict[str, Any]:
    """Of the local hypervisor: how fast journals are laid out, and how long guests take; lines through the origin."""
    cores = os.cpu_count() or 1
    seconds = {"disks": 0.0, "boot": 0.0, "attach": 0.0}
    nbytes = turns = operations = 0
    for name in ("one guest", "three guests"):
        n = CALIBRATION[name].guests
        for record in records[name]:
            for parts in undisturbed(record):
                seconds["disks"] += parts.get("create", 0.0) + parts["disks"]
                seconds["boot"] += parts["boot"]
                seconds["attach"] += parts.get("attach", 0.0)
                nbytes, turns, operations = nbytes + SECTOR * record["written"], turns - (-n // cores), operations + 1
    platform = {
        "create": 0, "attach": _ns(seconds["attach"] / operations), "power_on": _ns(seconds["boot"] / turns),
        "concurrent": cores,
    }  # fmt: skip
    return {"layout": nbytes / seconds["disks"], "hypervisor": platform}


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)


def _mean(values: Any) -> float:
    return statistics.fmean(values)
