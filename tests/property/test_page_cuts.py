"""However the journal is cut into pages, the folds end alike."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.checkpoint import FoldFile
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record
from journal.runner import Runner

COUNT = 60


class Chain:
    """A hash over all that it saw, in order; it saves only now and then, as the learner does."""

    name, version = "chain", 1
    kinds = frozenset({Kind.SOURCE})

    def __init__(self, saves_every: int) -> None:
        self._every, self._state, self._seen = saves_every, b"", 0
        self._saved = self._offset = -1
        self._saved_seen = 0

    @property
    def resume_offset(self) -> int | None:
        return self._saved

    def load(self, file: FoldFile) -> None:
        stored = file.get("chain", b"")
        if stored is not None:
            self._saved, self._seen = int.from_bytes(stored[:8]), int.from_bytes(stored[8:16])
            self._state, self._saved_seen = stored[16:], self._seen

    def apply(self, record: Record) -> Sequence[Draft]:
        self._offset, self._seen = record.offset, self._seen + 1
        self._state = hashlib.sha256(self._state + record.id.encode()).digest()
        return [Draft(kind=Kind.EXAMPLE, stream="chain", id=self._state.hex()[:8], body=b"{}")]

    def save(self, file: FoldFile) -> None:
        if self._seen - self._saved_seen >= self._every:
            self._saved, self._saved_seen = self._offset, self._seen
            file.put("chain", [(b"", self._saved.to_bytes(8) + self._seen.to_bytes(8) + self._state)])

    def digest(self) -> str:
        return hashlib.sha256(self._state).hexdigest()


def ended(cuts: Sequence[tuple[int, bool]], saves_every: int) -> tuple[str, list[tuple[str, int]]]:
    """The fold's digest and the journal, after pages of these sizes; True is a restart behind the page."""
    journal = MemoryJournal("t")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.sqlite"
        runner = Runner(Chain(saves_every), FoldFile(path), journal, "f")
        journal.append(
            [Draft(kind=Kind.SOURCE, stream="s", id=f"e{n}", source="/t", time=n, body=b"") for n in range(COUNT)]
        )
        for size, restarts in [*cuts, (10 * COUNT, True), (10 * COUNT, False)]:
            page = journal.read(0, runner.offset, size)
            drafts = [draft for record in page for draft in runner.apply(record)]
            journal.append(drafts, sink="chain")
            if page:
                runner.pass_over(page[-1].offset)
                runner.commit()
            if restarts:
                runner.close()
                runner = Runner(Chain(saves_every), FoldFile(path), journal, "f")
        digest = runner.fold.digest()
        runner.close()
    return digest, [(record.id, record.offset) for record in journal.read(0, -1, 1_000)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=20), st.integers(1, 30))
def test_results_do_not_depend_on_the_page_cuts(cuts: list[tuple[int, bool]], saves_every: int) -> None:
    assert ended(cuts, saves_every) == ended([], 1)
