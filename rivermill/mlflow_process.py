"""Runs MLflow's server so that none of its processes outlives the supervisor: ``... <program> <argument>...``.

The server starts workers of its own. The kernel tells a child of its parent's death, but not a grandchild; so this
process is told, and ends its whole group.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from journal.parent import ends_with


def main(command: Sequence[str]) -> int:
    """Run a program until it ends or SIGTERM comes; returns its exit code."""
    signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGKILL))
    if not ends_with(os.getppid(), signal.SIGHUP):
        return 1
    server = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    return abs(server.wait())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
