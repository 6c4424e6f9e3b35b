"""Named random streams from one seed: each entity draws from its own, so that adding one shifts no other."""

import hashlib

import numpy as np


class Streams:
    """Random generators by name. The same seed and name give the same numbers, whatever else exists."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def rng(self, name: str) -> np.random.Generator:
        """The generator of an entity, such as "vm/crm-db/writes"."""
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        words = [int.from_bytes(digest[n : n + 4], "little") for n in range(0, 16, 4)]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *words])))
