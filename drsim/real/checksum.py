"""CRC-32, zlib's: by ISA-L where it is installed (the extra `live`), ten times as fast and the same number.

Every byte that is replicated is summed three times: by who sends it, by who receives it, by its journal.
"""

import zlib

try:
    from isal.isal_zlib import crc32
except ImportError:  # who only simulates and verifies does without
    crc32 = zlib.crc32

__all__ = ["crc32"]
