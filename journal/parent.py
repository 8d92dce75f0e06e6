"""A process that ends with the one that started it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def send_at_parents_death(number: signal.Signals) -> None:
    """Ask the kernel for a signal at the parent's death; only Linux has such a thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def ends_with(parent: int, number: signal.Signals) -> bool:
    """Ask for a signal at the parent's death; False when that came before we could ask."""
    send_at_parents_death(number)
    return os.getppid() == parent
