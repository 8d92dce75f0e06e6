"""How long dataset versions are kept, and where: by what they are for. A plan first, then what it says.

A version's age is the journal time since somebody last built it. Past ``standard`` its rows are archived, past ``keep``
they are let go of; the manifest stays. What a line was fitted on keeps its rows.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from features import dataset_store as store
from features.dataset_manifest import versions
from journal.clock import DAY, format_span


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How versions of one kind are kept.

    Attributes:
        standard: How long their rows are ready to read, in microseconds; None for ever.
        keep: How long their rows are kept at all; None for ever.
    """

    standard: int | None = None
    keep: int | None = None


DEFAULT: Mapping[str, Terms] = {
    store.TRAINING: Terms(standard=90 * DAY),
    store.GATE: Terms(standard=90 * DAY, keep=365 * DAY),
    store.ADHOC: Terms(standard=7 * DAY, keep=30 * DAY),
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one version.

    Attributes:
        version: Which.
        action: ``archive`` its rows, ``drop`` them, or ``hold`` what would be dropped.
        why: The term that it is past, or who holds it.
    """

    version: str
    action: Literal["archive", "drop", "hold"]
    why: str


def plan_retention(root: Path, terms: Mapping[str, Terms], now: int, in_use: Collection[str]) -> list[Step]:
    """What retention would do, by version.

    Args:
        root: Where the versions lie.
        terms: By kind.
        now: The journal's time, in microseconds.
        in_use: Versions that a line names: their rows stay.
    """
    return list(_steps(root, terms, now, in_use))


def _steps(root: Path, terms: Mapping[str, Terms], now: int, in_use: Collection[str]) -> Iterator[Step]:
    for name in (manifest.version for manifest in versions(root)):
        keeping = store.keeping_of(root / name)
        term, age = terms[keeping.kind], now - keeping.claimed
        past = f"{keeping.kind}, built {format_span(age // DAY * DAY)} ago"
        is_over = term.keep is not None and age > term.keep and keeping.storage != "dropped"
        if is_over and name not in in_use:
            yield Step(version=name, action="drop", why=f"{past}, kept {format_span(term.keep or 0)}")
            continue
        if is_over:
            yield Step(version=name, action="hold", why=f"{past}, and a line was fitted on it")
        if keeping.storage == "standard" and term.standard is not None and age > term.standard:
            yield Step(version=name, action="archive", why=f"{past}, ready to read for {format_span(term.standard)}")


def apply_retention(root: Path, steps: Collection[Step]) -> None:
    """Do what a plan says, and clear away what writers that died left.

    What another process has done in the meantime is left as it is.
    """
    for step in steps:
        if step.action == "drop":
            store.drop(root, step.version)
        elif step.action == "archive":
            store.archive(root, step.version)
    store.sweep(root)
