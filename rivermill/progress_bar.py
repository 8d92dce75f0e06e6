"""How far a command has come, where somebody looks: a bar on standard error of a terminal, and nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[int, int], None]
"""Told how much of how much is done."""


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Tell]:
    """Show a bar while the body runs.

    Args:
        what: What goes on, in a word.
        quiet: Show none even on a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
