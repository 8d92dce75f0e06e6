"""Letting go of old segments: whole ones, below every reader, and only as long ago as the contracts allow.

One plan value, explained or applied. What was defined, decided and alerted is kept (`journal.archive.KEPT`); a read of
the rest is `NoLongerProvable` from then on.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from journal.archive import Archive, blobs_of, changing, keep, load_archive, remove_database, save_archive
from journal.blobs import Blobs
from journal.clock import format_time
from journal.errors import LostRace
from journal.held import list_held
from journal.log import START
from journal.segment import Segment, first_of, segment_path, segment_paths
from journal.settlement import State
from journal.sqlite_reader import SqliteReader


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that the plan is about.

    Attributes:
        first: Its first offset.
        last: Its last offset.
        last_at: The ``at`` of its last record.
        archived: Whether it lies in a blob.
        stays: Why it stays; empty when it leaves.
    """

    first: int
    last: int
    last_at: int
    archived: bool
    stays: str


class RetentionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What retention would let go.

    Attributes:
        begins: The first offset that can be read now.
        then: The first offset that can be read afterwards.
        segments: Every sealed segment, oldest first, with what becomes of it.
        waiting: How many quarantined events leave that nobody has decided about.
    """

    begins: int
    then: int
    segments: tuple[Leaving, ...]
    waiting: int = 0

    def explain(self) -> list[str]:
        """A line per segment, then what follows."""
        lines = [
            f"records {s.first} to {s.last}, known until {format_time(s.last_at)}: "
            + (f"stay ({s.stays})" if s.stays else "leave")
            for s in self.segments
        ]
        if self.then == self.begins:
            return [*lines, "Nothing leaves."]
        return [
            *lines,
            f"Records {self.begins} to {self.then - 1} are no longer provable afterwards; "
            "definitions, versions, snapshots, decisions and alerts are kept.",
            *self._warning(),
        ]

    def _warning(self) -> list[str]:
        if not self.waiting:
            return []
        which = f"{self.waiting} quarantined event(s) still wait and would be gone"
        return [f"{which}: `rivermill journal quarantine list --state waiting` shows them."]


def longest(retentions: Iterable[int | None]) -> int | None:
    """How long a segment stays that holds records of all these contracts; None is for ever."""
    known = list(retentions)
    return None if not known or None in known else max(span for span in known if span is not None)


def plan_retention(
    folder: Path, *, readers: Mapping[str, int], keeps: int | None, remembers: int | None
) -> RetentionPlan:
    """Say what may leave.

    Args:
        folder: The journal's.
        readers: The offset that each fold has committed, by its name.
        keeps: How long records stay, in microseconds of journal time: `longest` of the contracts'.
        remembers: The dedup window, in microseconds: ids within it must be found.
    """
    archive = load_archive(folder)
    *sealed, current = _segments(folder, archive)
    spans = [span for span in (keeps, remembers) if span is not None]
    moment = current.last_at - max(spans) if len(spans) == 2 else None  # noqa: PLR2004 - both are limited
    slowest = min(readers.items(), key=lambda reader: reader[1], default=("", -1))
    leaving, then, stopped = list[Leaving](), archive.begins, ""
    for segment in sealed:
        stopped = stopped or _why_it_stays(segment, slowest, moment)
        leaving.append(msgspec.structs.replace(segment, stays=stopped))
        then = then if stopped else segment.last + 1
    waiting = _waiting(folder, then) if then > archive.begins else 0
    return RetentionPlan(begins=archive.begins, then=then, segments=tuple(leaving), waiting=waiting)


def _waiting(folder: Path, then: int) -> int:
    with closing(SqliteReader(folder)) as reader:
        return sum(held.state is State.WAITING and held.offset < then for held in list_held(reader))


def _why_it_stays(segment: Leaving, slowest: tuple[str, int], moment: int | None) -> str:
    name, offset = slowest
    if not name:
        return "no reader's position is known"
    if offset == START:
        return f"fold {name!r} has read nothing yet"
    if segment.last > offset:
        return f"fold {name!r} has read up to record {offset}"
    if moment is None:
        return "a contract keeps its records, or its ids, for ever"
    if segment.last_at >= moment:
        return f"the contracts keep what was known since {format_time(max(moment, 0))}"
    return ""


def _segments(folder: Path, archive: Archive) -> list[Leaving]:
    moved = [Leaving(first=s.first, last=s.last, last_at=s.last_at, archived=True, stays="") for s in archive.segments]
    return moved + [_local(path) for path in segment_paths(folder) if not archive.left(first_of(path))]


def _local(path: Path) -> Leaving:
    with closing(Segment(path, readonly=True)) as segment:
        last = segment.last_offset()
        return Leaving(
            first=segment.first,
            last=segment.first - 1 if last is None else last,
            last_at=int(segment.meta("last_at") or 0),
            archived=False,
            stays="",
        )


def apply_retention(folder: Path, plan: RetentionPlan, blobs: Blobs | None = None) -> None:
    """Let go of what the plan says.

    Raises:
        LostRace: Somebody else applied another plan since this one was made, or is changing the archive now.
        Corrupt: A record that must be kept is damaged.
    """
    with changing(folder):
        _let_go(folder, plan)
        _remove_blobs(folder, blobs)


def _let_go(folder: Path, plan: RetentionPlan) -> None:
    archive = load_archive(folder)
    if archive.begins != plan.begins:
        raise LostRace(which=f"the journal begins at {archive.begins} by now, not at {plan.begins}", fix="Plan again")
    leaving = {segment.first for segment in plan.segments if not segment.stays}
    for path in segment_paths(folder):
        if first_of(path) in leaving:
            with closing(Segment(path, readonly=True)) as segment:
                keep(folder, segment)
    gone = tuple(segment for segment in archive.segments if segment.first in leaving)
    stay = tuple(segment for segment in archive.segments if segment.first not in leaving)
    going = (*archive.going, *gone)
    save_archive(folder, msgspec.structs.replace(archive, begins=plan.then, segments=stay, going=going))


def _remove_blobs(folder: Path, blobs: Blobs | None) -> None:
    """Remove the blobs of what was let go of, now or by a call that died here."""
    archive = load_archive(folder)
    for archived in archive.going:
        (blobs or blobs_of(folder, archive)).remove(archived.blob)
        remove_database(segment_path(folder / "fetched", archived.first))
    if archive.going:
        save_archive(folder, msgspec.structs.replace(archive, going=()))
