"""Signals run on their own stack again once OpenVINO has compiled something."""

import ctypes
import sys

import pytest

from minimonkey.inference.openvino import OpenVINOBackend
from minimonkey.inference.signal_stack import SignalStack, signal_stack_kept


def test_signals_stay_on_their_stack(tiny_model):
    """OpenVINO's own would be freed under the next Ctrl-C."""
    before = SignalStack.current()
    OpenVINOBackend(tiny_model("qwen2"))
    after = SignalStack.current()
    assert (after.start, after.flags, after.size) == (before.start, before.flags, before.size)


@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack is called by Linux's layout of its structure")
def test_a_stack_that_was_put_in_place_is_taken_away():
    before, memory = SignalStack.current(), ctypes.create_string_buffer(1 << 17)
    with signal_stack_kept():
        other = SignalStack(ctypes.addressof(memory), 0, len(memory))
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(other), None) == 0
        assert SignalStack.current().start == ctypes.addressof(memory) != before.start
    assert SignalStack.current().start == before.start
