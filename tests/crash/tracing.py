"""Processes that die inside a system call: strace counts the calls they make, and kills within the one asked for."""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.crash.live import Live, lives

ALONG_THE_WAY = frozenset({"exit", "exit_group", "rt_sigreturn", "restart_syscall"})
"""Calls that end a thread, a signal or another call: there is nothing inside them."""


def attached(pid: int, *options: str) -> subprocess.Popen[str]:
    """A strace that has hold of every thread of a process."""
    tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    assert "attached" in line, line
    return tracer


@contextmanager
def counted(live: Live, role: str, *options: str) -> Iterator[dict[str, int]]:
    """How often a process makes each call while the block runs; filled in when it is over."""
    table, calls = live.home.folder / f"calls of {role}", dict[str, int]()
    tracer = attached(live.pids[role], "-c", "-o", str(table), *options)
    yield calls
    tracer.terminate()
    tracer.communicate()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", table.read_text(), flags=re.MULTILINE)
    calls |= {name: int(count) for count, name in rows if name not in ALONG_THE_WAY | {"total"}}


def die_within(live: Live, role: str, call: str, number: int, work: Iterable[object], *options: str) -> bool:
    """Let a process die in its next call of a kind but so many; whether it did before the work ran out."""
    pid = live.pids[role]
    inject = f"inject={call}:signal=KILL:when={number}"
    tracer = attached(pid, "-o", os.devnull, "-e", f"trace={call}", "-e", inject, *options)
    for _ in work:
        if tracer.poll() is not None:
            break
    else:
        tracer.terminate()
    tracer.communicate()
    if lives(pid):
        return False
    if role == "owner":
        live.up.clear()
    live.zygote.wait(pid)
    live.kills[call] += 1
    live.start(role)
    return True
