"""The wall clock: for jobs, leases and the audit alone, never for the journal."""

import time


def wall_now() -> int:
    """Now, in microseconds."""
    return time.time_ns() // 1_000
