"""Properties: what must hold, whatever happens (verification.md 2.3), and which of them have no code to break yet."""

PROPERTIES = {
    "P1": "capture soundness: nothing is acknowledged before it is captured, in the order in which the disk has it",
    "P2": "write fidelity: the journal of a VM is a contiguous run of its writes",
    "P3": "prefix: every image that is served is the VM's disk after some first k of its writes",
    "P4": "consistent cut: with a write, a checkpoint has every write of its VPG that was acknowledged before it",
    "P5": "checkpoint atomicity: a checkpoint's cut is fixed when it is made, and listed when all journals have it",
    "P6": "RPO honesty: the reported RPO is never better than the true one",
    "P8": "acknowledged means durable",
    "P9": "idempotent redelivery: what comes twice, late, split or merged changes nothing",
    "P10": "batch splitting: n writes at once are n writes one by one",
    "P11": "retention: what is listed can be rebuilt; data is aged only from before the oldest checkpoint",
    "P12": "sync windows: no checkpoint while a VM syncs; what differs is dirty, queued or in flight",
    "P16": "generations: nothing of an old generation is applied",
    "P19": "application consistency: a tag lies between freeze and thaw of each VM that it claims, and claims no other",
    "P18": "control plane: pauses, edits, tags and checkpoints of a VPG are some order of a sequential machine",
    "P20": "liveness: when faults stop, every VPG is in sync and lists checkpoints again, or says why not",
    "P21": "corruption is seen: no altered record, segment or frame is applied, acknowledged or served",
    "P22": "conservation: what machines report about themselves is what is there",
    "P23": "membership: what was added is in no earlier checkpoint, what was removed stays in those that have it",
    "P24": "restarts keep numbers gap-free, or force a sync",
    "P26": "isolation: a broken VPG does not hold up another",
    "P27": "determinism: the same token gives the same digest, in another process and with another hash seed",
    "P28": "transcript parity: the events of a run, given to fresh machines, give the same effects",
}
"""The properties that the present core can break. The others join with the issue that brings what they speak of."""

LATER = {
    "P7": "planned move loses nothing (recovery)",
    "P13": "test isolation (recovery)",
    "P14": "clone non-interference (recovery)",
    "P15": "commit and rollback atomicity (recovery)",
    "P17": "reverse protection equivalence (recovery)",
    "P25": "recovery plan (recovery)",
}
