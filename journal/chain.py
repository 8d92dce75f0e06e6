"""A journal's segments as one run of records: those in the folder, those in blobs, and what is kept of the others.

The owner and every reader go through it. Offsets have no holes: where one shows, a file is missing, and that is said.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from journal.archive import KEPT, Archive, Archived, fetch, kept_path, load_archive
from journal.blobs import Blobs
from journal.errors import Corrupt, NoLongerProvable, NotWritable
from journal.log import START
from journal.record import Kind, Record
from journal.segment import Segment, first_of, segment_paths
from journal.stamp import NEVER_FORGOTTEN

_OPEN_AT_MOST = 2


class Chain:
    """The segments of one folder, oldest first."""

    def __init__(self, folder: Path, opens: Callable[[Path], Segment | None], blobs: Blobs | None = None) -> None:
        """Open what is in the folder.

        Args:
            folder: The journal's.
            opens: Opens a segment's file; None while it is still being made.
            blobs: Where segments lie that have left the folder; by default where the manifest says.
        """
        self.folder = folder
        self.local: list[Segment] = []
        self.archive = Archive()
        self._opens = opens
        self._blobs = blobs
        self._fetched: dict[int, Segment] = {}
        self._kept: Segment | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take up segments that were begun since."""
        known = self.local[-1].first if self.local else START
        paths = [path for path in segment_paths(self.folder) if first_of(path) > known]
        if not self.local:
            # Read after the listing: a file that has left in between is named here.
            self.archive = load_archive(self.folder)
        for path in paths:
            if not self.archive.left(first_of(path)):
                segment = self._open(path)
                if segment is None:
                    return
                self.add(segment)

    def add(self, segment: Segment) -> None:
        """Go on with a segment; the one before it is read now and then."""
        if self.local:
            self.local[-1].rest()
        self.local.append(segment)

    def _open(self, path: Path) -> Segment | None:
        try:
            return self._opens(path)
        except NotWritable:
            if path.exists():
                raise
        # It left between the listing and now; what is missing shows when it is read.
        self.archive = load_archive(self.folder)
        return None

    @property
    def first(self) -> int:
        """The first offset of the files in the folder."""
        return self.local[0].first if self.local else self.archive.begins

    def read(self, after: int, limit: int) -> list[Record]:
        """Up to ``limit`` records behind ``after``.

        Raises:
            NoLongerProvable: Retention let go of the first of them.
            Corrupt: One of them is damaged or missing.
        """
        if after + 1 < self.archive.begins:
            raise NoLongerProvable(
                which=f"records {after + 1} to {self.archive.begins - 1}",
                fix=f"The journal begins at record {self.archive.begins}; what was decided before is kept",
            )
        records: list[Record] = []
        for segment in self._from(after):
            records += segment.read(after, limit - len(records))
            if len(records) >= limit:
                break
        if records and records[-1].offset - after != len(records):
            raise self._missing(after, records)
        return records

    def _from(self, after: int) -> Iterator[Segment]:
        if after + 1 < self.first:
            for archived in self.archive.segments:
                if archived.last > after:
                    yield self._fetch(archived)
        for index, segment in enumerate(self.local):
            is_behind = index + 1 < len(self.local) and self.local[index + 1].first <= after + 1
            if not is_behind:
                yield segment

    def _missing(self, after: int, records: list[Record]) -> Corrupt:
        expected = after + 1
        for record in records:
            if record.offset != expected:
                break
            expected += 1
        return Corrupt(
            which=f"{self.folder}: records {expected} to {record.offset - 1} are missing",
            fix="Put the segment's file back, or run `rivermill journal repair` with a backup",
        )

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """The same for one kind; of the kinds that are kept, every record there ever was."""
        records: list[Record] = []
        for segment, before in self.holding(kind, after):
            found = segment.of_kind(kind, after, limit - len(records))
            records += [record for record in found if before is None or record.offset < before]
            if len(records) >= limit:
                break
        return records

    def last_of_kind(self, kind: Kind, count: int) -> list[Record]:
        """The last ``count`` records of one kind, in order."""
        records: list[Record] = []
        for segment in reversed(self.local):
            if len(records) < count:
                records = segment.last_of_kind(kind, count - len(records)) + records
        if len(records) < count:
            older = [record for segment, before in self._left(kind) for record in _all_of(segment, kind, before)]
            records = older[len(records) - count :] + records
        return records

    def holding(self, kind: Kind, after: int) -> Iterator[tuple[Segment, int | None]]:
        """The segments that may hold records of a kind behind an offset; of one, only those before a second offset."""
        if after + 1 < self.first:
            yield from self._left(kind)
        for segment in self.local:
            yield segment, None

    def _left(self, kind: Kind) -> Iterator[tuple[Segment, int | None]]:
        """Where records of one kind are that have left the folder."""
        if kind in KEPT:
            kept = self.kept()
            if kept is not None:
                yield kept, self.first
        else:
            for archived in self.archive.segments:
                yield self._fetch(archived), None

    def find(self, key: str, kind: Kind, is_forgotten: Callable[[int], bool] = lambda _: False) -> Record | None:
        """The newest record of an identity.

        Args:
            key: See `journal.stamp.identity`.
            kind: The key's kind.
            is_forgotten: Whether ids are that became known before a moment; those of some kinds never are.
        """
        never = kind in NEVER_FORGOTTEN
        for segment in reversed(self.local):
            offset = segment.offset_of(key)
            if offset is not None:
                return segment.read(offset - 1, 1)[0]
            if not never and is_forgotten(segment.begins_after):
                return None
        return self._find_left(key, never, is_forgotten) if self.first else None

    def foresee(self, keys: Sequence[str], is_forgotten: Callable[[int], bool]) -> None:
        """Note which identities are free, wherever they could still be remembered, until `forget`."""
        for segment in reversed(self.local):
            segment.foresee(keys)
            if is_forgotten(segment.begins_after):
                return

    def forget(self) -> None:
        """Drop what segments hold for the group that ends."""
        for segment in self.local:
            segment.forget()

    def _find_left(self, key: str, never: bool, is_forgotten: Callable[[int], bool]) -> Record | None:
        if never:
            kept = self.kept()
            offset = None if kept is None else kept.offset_of(key)
            return None if kept is None or offset is None else kept.read(offset - 1, 1)[0]
        for archived in reversed(self.archive.segments):
            segment = self._fetch(archived)
            offset = segment.offset_of(key)
            if offset is not None:
                return segment.read(offset - 1, 1)[0]
            if is_forgotten(archived.begins_after):
                return None
        return None

    def in_order(self) -> Iterator[Segment]:
        """Every segment that can still be read, oldest first; one in a blob is open until the next two are."""
        for archived in self.archive.segments:
            yield self._fetch(archived)
        yield from list(self.local)

    def last(self) -> int:
        """The last offset that the files hold, or `START`."""
        for segment in reversed(self.local):
            if (last := segment.last_offset()) is not None:
                return last
        return max((archived.last for archived in self.archive.segments), default=self.archive.begins - 1)

    def kept(self) -> Segment | None:
        """What is kept of segments that left; None when none ever did."""
        if self._kept is None and kept_path(self.folder).exists():
            self._kept = Segment(kept_path(self.folder), readonly=True)
        return self._kept

    def _fetch(self, archived: Archived) -> Segment:
        segment = self._fetched.pop(archived.first, None)
        if segment is None:
            segment = fetch(self.folder, self.archive, archived, self._blobs)
        self._fetched[archived.first] = segment
        while len(self._fetched) > _OPEN_AT_MOST:
            self._fetched.pop(next(iter(self._fetched))).close()
        return segment

    def close(self) -> None:
        """Let go of the files."""
        for segment in (*self.local, *self._fetched.values()):
            segment.close()
        if self._kept is not None:
            self._kept.close()


def _all_of(segment: Segment, kind: Kind, before: int | None) -> list[Record]:
    records = segment.of_kind(kind, START, 2**40)
    return [record for record in records if before is None or record.offset < before]
