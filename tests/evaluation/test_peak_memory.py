"""What a process takes is seen, also what it gives back before the end."""

import mmap
import sys
import threading
import time

import pytest

from minimonkey.evaluation.peak_memory import INTERVAL_SECONDS, PeakMemory, private_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc, which Linux has")
SIZE = 64 * 2**20


def test_the_most_of_a_block():
    before = private_bytes()
    with PeakMemory() as peak:
        taken = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # new pages; malloc may have old ones left
        for place in range(0, SIZE, mmap.PAGESIZE):
            taken[place] = 1
        time.sleep(20 * INTERVAL_SECONDS)
        taken.close()
    assert peak.bytes - before > 0.9 * SIZE
    assert private_bytes() < peak.bytes - 0.5 * SIZE


def test_an_error_ends_the_watch():
    threads = threading.active_count()
    with pytest.raises(ValueError), PeakMemory() as peak:
        raise ValueError
    assert peak.bytes > 0 and threading.active_count() == threads
