"""What a replay costs over its bare loops: the feature fold over tiles and upserts, the learner over River alone (G16).

    python -m benchmarks.replay [--home HOME] [--weeks N] [--rounds N] [--page N] [--commit N] [--memory] [--profile]

The journal is that of a home in which the flights were played; without ``--home`` one is played first. Each round runs,
in turn, in this process:

- ours: a worker's own way of catching up. Pages of the journal, each record decoded and passed to a runner with fresh
  files, a commit behind as many pages as a worker takes before it commits. The feature fold alone, the learner alone,
  and join and learner together (G10);
- the bare feature loop (L4 + tiles): the same events parsed beforehand, the same timers, windows and row values by the
  same code; the rows of as many records upserted behind a guard on their stamps in one transaction. No journal, no
  guard in memory, no state of windows saved, no history. A stricter one upserts only the newest row of each entity
  between two commits, though history needs them all;
- the bare learner (L7): the same inputs in memory, answered and learned by a bare River model in the same order. No
  journal, no figures, no scores, no snapshots, no checkpoints.

What is computed must be equal: digests in every round, online rows and model digests between ours and the bare loops.
Garbage is looked for as seldom on both sides as by a worker. Of processor and wall time the first is disturbed least by
other work. ``--memory`` replays once and prints what the process
holds after each tenth (G19).
"""

import argparse
import cProfile
import gc
import hashlib
import pstats
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from struct import Struct
from time import perf_counter, process_time
from typing import Any, NamedTuple

import msgspec

from features.entities import Entity, Timers, WindowView
from features.feeds import StreamFeeds
from features.rows import Row
from journal.body import Definition, Example, Prediction, body_of
from journal.log import START
from journal.reading import each
from journal.record import Kind, Record
from journal.runner import Runner
from journal.sqlite import open_database
from journal.sqlite_reader import SqliteReader
from registry.flavors import river
from rivermill.lockstep import rare_collections
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import HISTORY_ROWS_PER_FLUSH, open_folds, open_run
from rivermill.worker_process import RECORDS_PER_COMMIT, RECORDS_PER_PAGE, FollowedJournal, Pace

TABLE = "CREATE TABLE online (view TEXT, key BLOB, row BLOB, PRIMARY KEY (key, view)) STRICT, WITHOUT ROWID"
UPSERT = """
INSERT INTO online VALUES (?, ?, ?) ON CONFLICT (key, view) DO UPDATE SET row = excluded.row
WHERE substr(excluded.row, 5, 16) > substr(online.row, 5, 16)
"""
ROWS = "SELECT view, key, substr(row, 5) FROM online ORDER BY view, key"
_encode = msgspec.msgpack.Encoder().encode
_pack_stamps = Struct(">IQQ").pack
_BIAS = 1 << 63

Page = list[tuple[str, dict[str, Any], int, str, int]]
"""(stream, data, time, id, at) of each source event."""
Step = tuple[int, dict[str, Any] | None, bool]
"""(prediction's offset, its inputs, False) at a question; (offset, None, outcome) at an example."""


class Took(NamedTuple):
    """Seconds, a digest of what a bare loop computes as well, and of all that a fold holds."""

    cpu: float
    wall: float
    result: str
    state: str = ""


@contextmanager
def played(root: Path | None, weeks: int, pipeline: Pipeline) -> Iterator[Home]:
    """A home with a journal: the given one, or one that is played here."""
    if root is not None:
        yield Home(root, pipeline.name)
        return
    assert pipeline.recorded is not None
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(pipeline, home := Home(Path(folder), pipeline.name))
        flush = run.folds.flush_history
        run.lockstep.play(pipeline.recorded(weeks=weeks), "benchmark", progress=lambda _: flush(HISTORY_ROWS_PER_FLUSH))
        run.close()
        yield home


def replay(
    pipeline: Pipeline, journal: SqliteReader, names: Sequence[str], pace: Pace, after: Callable[[int], None]
) -> Took:
    """Take every record through fresh folds of these names; ``after`` is told how far it is, behind each commit."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), pipeline.name)
        home.prepare()
        folds = open_folds(pipeline, home, FollowedJournal(journal))
        runners = [runner for runner in folds.runners if runner.fold.name in names]
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        _follow(journal, runners, pace, after)
        took = process_time() - cpu, perf_counter() - wall
        result = _rows_digest(home.fold("features")) if "features" in names else river.digest(folds.learner.model)
        state = " ".join(runner.fold.digest() for runner in runners)
        folds.close()
    return Took(*took, result, state)


def _follow(journal: SqliteReader, runners: Sequence[Runner], pace: Pace, after: Callable[[int], None]) -> None:
    routes = {kind: [runner for runner in runners if kind in runner.kinds] for kind in Kind}
    offset = START
    for records in pages_in(journal, pace.commit, pace.page):
        for page in records:
            for record in page:
                for runner in routes[record.kind]:
                    runner.apply(record)
            offset = page[-1].offset
        for runner in runners:
            runner.pass_over(offset)
            runner.commit()
        after(offset)


def pages_in(journal: SqliteReader, commit: int, page: int) -> Iterator[Iterator[list[Record]]]:
    """The journal's pages, in groups that share a commit; each group is used up before the next is asked for."""
    offset = START

    def group() -> Iterator[list[Record]]:
        nonlocal offset
        left = commit
        while left > 0 and (records := journal.read(0, offset, min(page, left))):
            offset = records[-1].offset
            left -= len(records)
            yield records

    while offset < journal.end():
        yield group()


def _rows_digest(path: Path) -> str:
    with closing(open_database(path, readonly=True)) as db:
        return hashlib.sha256(repr(db.execute(ROWS).fetchall()).encode()).hexdigest()


def pages_of(journal: SqliteReader, pace: Pace) -> list[Page]:
    """The source events between two commits, parsed."""
    groups = pages_in(journal, pace.commit, pace.page)
    return [[_parsed(each) for page in pages for each in page if each.kind is Kind.SOURCE] for pages in groups]


def _parsed(record: Record) -> tuple[str, dict[str, Any], int, str, int]:
    return record.stream, record.data, record.at if record.time is None else record.time, record.id, record.at


class BareViews:
    """Timers, windows and row values, by the code of the views; nothing else."""

    def __init__(self, pipeline: Pipeline) -> None:
        plans = pipeline.views
        windows = [WindowView(plan, n, pipeline.lateness) for n, plan in enumerate(plans) if plan.kind == "windows"]
        plain = [plan for plan in plans if plan.kind == "plain"]
        self.timers, self.clock = Timers(), 0
        streams = sorted({stream for plan in plans for stream in plan.streams})
        self.feeds = {stream: StreamFeeds(stream, windows, plain, self.timers) for stream in streams}
        self.none = StreamFeeds("", [], [], self.timers)

    def rows(self, page: Page) -> Iterator[tuple[str, Row]]:
        """The rows that the events of a page cause."""
        for stream, data, time, id_, at in page:
            touched: dict[Entity, None] = {}
            if time > self.clock:
                self.clock = time
                if self.timers.next <= time:
                    touched = dict.fromkeys(self.timers.fire(time))
            feeds = self.feeds.get(stream, self.none)
            if feeds.feeds:
                samples = [sample(data, time, id_, self.clock) for sample in feeds.samplers]
                for feed in feeds.feeds:
                    if (entity := feed(data, samples)) is not None:
                        touched[entity] = None
            for entity in touched:
                yield entity.view.name, Row(entity.key, self.clock, at, tuple(entity.values))
            for name, row_of in feeds.plain:
                if (row := row_of(data, time, at)) is not None:
                    yield name, row


def _bare(row: Row) -> bytes:
    """A stored row without its checksum."""
    return _pack_stamps(0, row[1] + _BIAS, row[2] + _BIAS) + _encode(row[3])


def bare_features(pipeline: Pipeline, pages: Sequence[Page], *, newest_only: bool) -> Took:
    """L4 + tiles."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.sqlite"
        db = open_database(path)
        db.execute(TABLE)
        views = BareViews(pipeline)
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        for page in pages:
            rows: Any = views.rows(page)
            if newest_only:
                rows = {(view, row.key): (view, row) for view, row in rows}.values()
            with db:
                db.executemany(UPSERT, ((view, row[0], _bare(row)) for view, row in rows))
        took = process_time() - cpu, perf_counter() - wall
        db.close()
        return Took(*took, _rows_digest(path))


def steps_of(journal: SqliteReader) -> list[Step]:
    """The questions and examples of the journal, as the learner sees them."""
    columns: list[str] = []
    steps: list[Step] = []
    for record in each(journal):
        if record.kind is Kind.DEFINITION and not columns:
            columns = body_of(record, Definition).columns
        elif record.kind is Kind.PREDICTION:
            steps.append((record.offset, river.inputs(columns, body_of(record, Prediction).values), False))
        elif record.kind is Kind.EXAMPLE:
            example = body_of(record, Example)
            steps.append((example.prediction, None, example.outcome))
    return steps


def bare_learner(model: Any, steps: Sequence[Step]) -> Took:
    """L7."""
    waiting: dict[int, tuple[dict[str, Any], float]] = {}
    gc.collect()
    wall, cpu = perf_counter(), process_time()
    for offset, x, outcome in steps:
        if x is not None:
            waiting[offset] = x, model.predict_proba_one(x)[True]
        else:
            model.learn_one(waiting.pop(offset)[0], outcome)
    return Took(process_time() - cpu, perf_counter() - wall, river.digest(model))


def compare(name: str, limits: Sequence[Took], ours: Sequence[Took], goal: str) -> None:
    """Print medians, and the ratio of each round's pair."""
    cpu = [limit.cpu / own.cpu for limit, own in zip(limits, ours, strict=True)]
    wall = [limit.wall / own.wall for limit, own in zip(limits, ours, strict=True)]
    print(
        f"{name}: {median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f}) of processor time, "
        f"{median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f}) of wall time; {goal}\n"
        f"  ours {median(own.cpu for own in ours):.2f} s, bare {median(limit.cpu for limit in limits):.2f} s"
    )


def resident() -> float:
    """What this process holds now beside pages of files, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def nothing(_: int) -> None:
    """After a commit."""


def print_ratios(pipeline: Pipeline, journal: SqliteReader, rounds: int, pace: Pace) -> None:
    """Run everything in turn and compare."""
    pages, steps = pages_of(journal, pace), steps_of(journal)
    runs: dict[str, Callable[[], Took]] = {
        "features": lambda: replay(pipeline, journal, ["features"], pace, nothing),
        "upserts": lambda: bare_features(pipeline, pages, newest_only=False),
        "newest": lambda: bare_features(pipeline, pages, newest_only=True),
        "learner": lambda: replay(pipeline, journal, ["learner"], pace, nothing),
        "river": lambda: bare_learner(pipeline.line.make_model(), steps),
        "both": lambda: replay(pipeline, journal, ["join", "learner"], pace, nothing),
    }
    took: dict[str, list[Took]] = {name: [] for name in runs}
    with rare_collections():
        for _ in range(rounds):
            for name, run in runs.items():
                took[name].append(run())
    for names in (("features", "upserts", "newest"), ("learner", "river", "both")):
        assert len({each.result for name in names for each in took[name]}) == 1, names
    assert all(len({each.state for each in each_round}) == 1 for each_round in took.values())
    events, examples = sum(map(len, pages)), sum(x is None for _, x, _ in steps)
    print(
        f"{journal.end() + 1:,} records: {events:,} events, {examples:,} examples; pages of {pace.page:,}, "
        f"a commit behind {pace.commit:,}, {rounds} rounds"
    )
    compare("G16 feature fold over L4 + tiles", took["upserts"], took["features"], "accept 0.6, aim 0.8")
    compare("  over the newest row of each entity between commits", took["newest"], took["features"], "stricter")
    compare("G16 learner over L7", took["river"], took["learner"], "accept 0.6, aim 0.8")
    compare("G10 join and learner over L7", took["river"], took["both"], "accept 0.4, aim 0.7")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB, both sides' data included")


def print_memory(pipeline: Pipeline, journal: SqliteReader, pace: Pace) -> None:
    """Replay once; what the process holds after each tenth of the journal."""
    held: dict[int, float] = {}
    end = journal.end()

    def after(offset: int) -> None:
        held[10 * offset // end] = resident()

    with rare_collections():
        replay(pipeline, journal, ["features", "join", "learner"], pace, after)
    print(f"{end + 1:,} records; MB after each tenth: {' '.join(f'{held[n]:,.0f}' for n in sorted(held))}")


def print_profile(pipeline: Pipeline, journal: SqliteReader, pace: Pace) -> None:
    """Where the time of ours goes."""
    for names in (["features"], ["join", "learner"]):
        profile = cProfile.Profile()
        profile.runcall(replay, pipeline, journal, names, pace, nothing)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def main() -> None:
    """Print the ratios, the memory or a profile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--weeks", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", type=int, default=RECORDS_PER_PAGE)
    parser.add_argument("--commit", type=int, default=RECORDS_PER_COMMIT)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    pipeline, pace = load_pipeline(configs_folder() / "flights"), Pace(options.page, options.commit)
    with played(options.home, options.weeks, pipeline) as home, closing(SqliteReader(home.journal)) as journal:
        if options.memory:
            print_memory(pipeline, journal, pace)
        elif options.profile:
            print_profile(pipeline, journal, pace)
        else:
            print_ratios(pipeline, journal, options.rounds, pace)


if __name__ == "__main__":
    main()
