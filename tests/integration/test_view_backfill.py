"""Views that come to a journal that is there already: their rows are those of a run that had them from the start."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from features.feast_reader import source_of
from features.history import History
from features.online_table import OnlineReader, OnlineTable
from features.outbox import Outbox
from features.processor import FeatureFold
from features.rows import encode_key
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.control import echo_of
from journal.errors import Refused, UnknownName
from journal.log import Journal
from journal.poison import Attempts
from journal.reading import each
from journal.record import Draft
from journal.runner import Runner
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from rivermill import view_backfill
from rivermill.feature_catalog import Catalog
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.view_backfill import backfill, changes_of, stage
from rivermill.view_files import echoed_sets, online_file
from rivermill.wiring import control_of, feast_store, open_folds, open_run
from rivermill.worker_process import FollowedJournal, LastingWorker

pytestmark = pytest.mark.slow

EVENTS, HALF = 900, 450
BY: dict[str, Any] = {"principal": "tester"}
LATER = textwrap.dedent(
    """

    reports_by_ip_v2 = window_view(
        "reports_by_ip_v2",
        entities=[ip_in_url],
        ttl=timedelta(days=7),
        owner="phishing@example.org",
        description="Reports in half a day",
        version=2,
        features={"reports_12h": count("reports", over="12h", tile="1h")},
    )

    wider = FeatureService(name="wider", features=[reports_by_ip, reports_by_ip_v2])
    """
)
FIRST_VIEW, LATER_VIEW = "reports_by_ip", "reports_by_ip_v2"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("before") / "phishing"
    shutil.copytree(configs_folder() / "phishing", folder)
    return load_pipeline(folder)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load_pipeline(edited(tmp_path_factory.mktemp("after"), LATER))


def edited(root: Path, more: str, old: str = "", new: str = "") -> Path:
    folder = root / "phishing"
    shutil.copytree(configs_folder() / "phishing", folder)
    views = folder / "views.py"
    views.write_text(views.read_text().replace(old, new) + more)
    return folder


@pytest.fixture(scope="module")
def events(before: Pipeline) -> Sequence[bytes]:
    assert before.recorded is not None
    return list(islice(before.recorded(), EVENTS))


@pytest.fixture(scope="module")
def played(before: Pipeline, events: Sequence[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("played")
    with closing(open_run(before, Home(root, "phishing"))) as run:
        run.lockstep.play(iter(events[:HALF]), "test")
        run.folds.flush_history()
    return root


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Home:
    shutil.copytree(played, tmp_path / "home")
    return Home(tmp_path / "home", "phishing")


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_backfill, "RECORDS_PER_PAGE", 200)
    monkeypatch.setattr(view_backfill, "ROWS_PER_FLUSH", 1)


Rows = tuple[list[Any], list[dict[str, Any]]]


def rows_in(file: Path, history: Path, view: ViewPlan) -> Rows:
    """A view's newest rows as they are stored, and its history."""
    with closing(apsw.Connection(str(file))) as db:
        online = db.execute("SELECT * FROM online WHERE view = ? ORDER BY key", (view.name,)).fetchall()
    return online, History(history, [view.schema]).read(view.name, limit=100_000).to_pylist()


def from_the_start(home: Home, pipeline: Pipeline, folder: Path) -> dict[str, Rows]:
    """What one fold over the whole journal makes of every view that is declared."""
    schemas = [view.schema for view in pipeline.views]
    with closing(SqliteReader(home.journal)) as journal, closing(FoldFile(folder / "features.sqlite")) as file:
        outbox = Outbox(file.db, schemas)
        fold = FeatureFold(pipeline.views, pipeline.lateness, OnlineTable(file.db), outbox)
        runner = Runner(fold, file, cast(Journal, FollowedJournal(journal)), "f")
        for record in each(journal):
            runner.apply(record)
        runner.commit()
        History(folder / "history", schemas).flush(outbox)
    return {view.name: rows_in(folder / "features.sqlite", folder / "history", view) for view in pipeline.views}


def as_published(home: Home, pipeline: Pipeline) -> dict[str, Rows]:
    with closing(SqliteReader(home.journal)) as journal:
        sets = echoed_sets(home, journal, journal.incarnation, pipeline.views)
        history = home.history(journal.incarnation)
    return {view.name: rows_in(online_file(home, sets, view.name), history, view) for view in pipeline.views}


def go_on(home: Home, pipeline: Pipeline, events: Sequence[bytes]) -> list[str]:
    """Start anew and play all events; the folds' names."""
    with closing(open_run(pipeline, home)) as run:
        run.lockstep.play(iter(events), "test")
        run.folds.flush_history()
        return [runner.fold.name for runner in run.lockstep.runners]


def test_a_view_that_is_filled_later_has_the_rows_of_one_that_was_there_from_the_start(
    home: Home, after: Pipeline, events: Sequence[bytes], tmp_path: Path
) -> None:
    before = {change.view: change.what for change in changes_of(after, home)}
    assert before == {"reports_by_ip@1": "unchanged", "reports_by_ip_v2@2": "new version"}
    staged = stage(after.folder, home, why="more", **BY)
    assert stage(after.folder, home, why="again", **BY)["staged"] == []
    (filled,) = backfill(after.folder, home, [LATER_VIEW], **BY)
    assert filled["views"] == staged["staged"] == ["reports_by_ip_v2@2"]
    assert backfill(after.folder, home, [], **BY) == []
    assert go_on(home, after, events)[-1] == staged["fold"]
    assert {change.what for change in changes_of(after, home)} == {"unchanged"}
    expected = from_the_start(home, after, tmp_path)
    assert as_published(home, after) == expected
    assert len(expected[LATER_VIEW][1]) > EVENTS // 4
    with closing(SqliteReader(home.journal)) as journal:
        store = feast_store(home, journal.incarnation, journal.clock)
    assert {view.name for view in store.list_feature_views()} == {FIRST_VIEW, LATER_VIEW}
    read = [
        online_values(store, "ip_in_url", value, f"{FIRST_VIEW}:reports_1d", f"{LATER_VIEW}:reports_12h")
        for value in (-1, 0, 1)
    ]
    assert read == [newest_values(home, after, value) for value in (-1, 0, 1)]
    assert any(None not in values for values in read)
    wanted = [(view, encode_key([value])) for value in (-1, 0, 1) for view in (FIRST_VIEW, LATER_VIEW)]
    rows = source_of(store).get_many(wanted)
    assert [row.values[0] if row and row.values else None for row in rows] == [one for pair in read for one in pair]


def test_feast_reads_no_row_of_a_view_that_is_filled_and_not_published(
    home: Home, after: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = stage(after.folder, home, why="more", **BY)
    with monkeypatch.context() as patched:
        patched.setattr(view_backfill, "_decide", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            backfill(after.folder, home, [], **BY)
    assert home.fold(staged["fold"]).exists()
    with closing(SqliteReader(home.journal)) as journal:
        incarnation, clock = journal.incarnation, journal.clock
    asked = ("ip_in_url", 1, f"{LATER_VIEW}:reports_12h")
    assert online_values(feast_store(home, incarnation, clock), *asked) == [None]
    assert held_entities(home, after) == {f"{FIRST_VIEW}@1": 2, f"{LATER_VIEW}@2": None}
    backfill(after.folder, home, [], **BY)
    assert online_values(feast_store(home, incarnation, clock), *asked) != [None]
    assert held_entities(home, after) == {f"{FIRST_VIEW}@1": 2, f"{LATER_VIEW}@2": 2}


def held_entities(home: Home, pipeline: Pipeline) -> dict[str, Any]:
    """How many entities the catalog says each view holds."""
    return {row["view"]: row["entities"] for row in Catalog(pipeline.folder, home).table()}


def online_values(store: Any, key: str, value: int, *columns: str) -> list[Any]:
    """What Feast's own SDK answers for one entity."""
    answer = store.get_online_features(list(columns), [{key: value}]).to_dict()
    return [answer[column.split(":")[1]][0] for column in columns]


def newest_values(home: Home, pipeline: Pipeline, value: int) -> list[Any]:
    """The first value of every view's newest row of an entity, from the folds' files; None where there is none."""
    with closing(SqliteReader(home.journal)) as journal:
        sets = echoed_sets(home, journal, journal.incarnation, pipeline.views)
    found: list[Any] = []
    for view in pipeline.views:
        (row,) = OnlineReader(online_file(home, sets, view.name)).get_many([(view.name, encode_key([value]))])
        found.append(row.values[0] if row and row.values else None)
    return found


def test_it_is_filled_while_events_come_and_is_live_at_the_next_start(
    home: Home, before: Pipeline, after: Pipeline, events: Sequence[bytes], tmp_path: Path
) -> None:
    stage(after.folder, home, why="more", **BY)
    coming: Iterator[bytes] = iter(events[HALF:])
    with closing(open_run(after, home)) as run:
        assert "features-" not in "".join(runner.fold.name for runner in run.lockstep.runners)

        def meanwhile(_offset: int, _end: int) -> None:
            for event in islice(coming, 20):
                run.lockstep.offer(event)
            run.lockstep.commit_folds()

        (filled,) = backfill(after.folder, home, [], meanwhile, **BY)
        reached = run.journal.end()
        for event in islice(coming, 100):
            run.lockstep.offer(event)
        run.lockstep.commit_folds()
        run.folds.flush_history()
        assert 0 < filled["through"] <= reached < run.journal.end()
    go_on(home, after, events)
    assert as_published(home, after) == from_the_start(home, after, tmp_path)
    assert before.views == after.views[:1]


KILLED = """
import os, signal, sys
from pathlib import Path
from features.history import History
from features.outbox import Outbox
from journal.runner import Runner
from rivermill import view_backfill
from rivermill.settings import Home

folder, home = Path(sys.argv[1]), Home(Path(sys.argv[2]), "phishing")
view_backfill.RECORDS_PER_PAGE, view_backfill.ROWS_PER_FLUSH = 100, 1
view_backfill.load_pipeline(folder)  # Feast is loaded once, before the forks

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

def dies_at(owner, name, times, after):
    plain, left = getattr(owner, name), [times]
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and not after: die()
        found = plain(*args, **kwargs)
        if left[0] == 0: die()
        return found
    setattr(owner, name, call)

points = [
    (Runner, "commit", 1, False), (Runner, "commit", 1, True), (History, "append", 1, False),
    (History, "append", 2, True), (Outbox, "confirm", 1, True), (Runner, "commit", 2, False),
    (Runner, "close", 1, True), (view_backfill, "_decide", 1, False), (view_backfill, "_decide", 1, True),
]
for point in points:
    child = os.fork()
    if not child:
        dies_at(*point)
        view_backfill.backfill(folder, home, [], principal="tester")
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
"""


def test_killed_between_any_two_steps_it_goes_on_and_ends_with_the_same_rows(
    home: Home, after: Pipeline, events: Sequence[bytes], tmp_path: Path
) -> None:
    stage(after.folder, home, why="more", **BY)
    subprocess.run([sys.executable, "-c", KILLED, str(after.folder), str(home.root)], check=True)
    assert backfill(after.folder, home, [], **BY) == []
    go_on(home, after, events)
    assert as_published(home, after) == from_the_start(home, after, tmp_path)
    actions = [entry.action for entry in control_of(home).entries("phishing")]
    assert actions == ["bootstrap", "stage_views", "publish_views"]


class Owner:
    """The journal's owner in this process."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.journal = journal

    def claim(self, epochs: dict[str, int]) -> dict[str, int]:
        return epochs

    def append(self, batches: Sequence[tuple[str, Sequence[Draft]]]) -> int:
        for sink, drafts in batches:
            self.journal.append(drafts, sink=sink)
        return self.journal.end()


def test_a_live_worker_takes_up_a_view_at_the_echo_of_its_publication(
    home: Home, after: Pipeline, tmp_path: Path
) -> None:
    staged = stage(after.folder, home, why="more", **BY)
    with (
        closing(SqliteJournal(home.journal, "phishing", dedup_window=after.dedup_window)) as journal,
        closing(SqliteReader(home.journal)) as reader,
    ):
        worker = LastingWorker(
            lambda: open_folds(after, home, FollowedJournal(reader)),
            reader,
            cast(Any, Owner(journal)),
            Attempts(home.attempts, "build", 1_000),
            lambda _: None,
            lambda _: None,
        )
        with closing(worker):
            while worker.step():
                pass
            backfill(after.folder, home, [], **BY)
            assert staged["fold"] not in [runner.fold.name for runner in worker._folds.runners]
            journal.append([echo_of(entry) for entry in control_of(home).entries("phishing")[1:]])
            while worker.step():
                pass
            standing = {runner.fold.name: runner.offset for runner in worker._folds.runners}
            assert standing[staged["fold"]] == standing["features"] == journal.end()
            worker._folds.flush_history()
    assert as_published(home, after) == from_the_start(home, after, tmp_path)


def test_an_edited_view_is_refused_by_plan_apply_and_at_start(home: Home, after: Pipeline, tmp_path: Path) -> None:
    stage(after.folder, home, why="more", **BY)
    backfill(after.folder, home, [], **BY)
    go_on(home, after, [])
    folder = edited(tmp_path, LATER.replace('over="12h"', 'over="6h"'))
    pipeline = load_pipeline(folder)
    assert changes_of(pipeline, home)[1].what == "changed"
    for attempt in (lambda: stage(folder, home, why="more", **BY), lambda: open_run(pipeline, home)):
        with pytest.raises(Refused, match=r"reports_by_ip_v2@2 was changed.*name reports_by_ip_v3, version 3"):
            attempt()


def test_a_view_of_the_answering_service_is_refused_at_start_with_a_way_out(home: Home, tmp_path: Path) -> None:
    pipeline = load_pipeline(edited(tmp_path, "", 'count("reports", over="1d"', 'count("reports", over="2d"'))
    assert [change.is_refused for change in changes_of(pipeline, home)] == [True]
    with pytest.raises(Refused, match="features plan"):
        open_run(pipeline, home)


def test_only_what_is_staged_can_be_filled_and_a_reason_is_needed(home: Home, after: Pipeline) -> None:
    with pytest.raises(Refused, match="no reason"):
        stage(after.folder, home, why=" ", **BY)
    with pytest.raises(UnknownName, match=r"staged view reports_by_ip_v2; there are: none"):
        backfill(after.folder, home, [LATER_VIEW], **BY)


def test_a_view_that_was_edited_before_it_was_published_leaves_nothing_of_its_first_form(
    home: Home, after: Pipeline, events: Sequence[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrower = LATER.replace('over="12h"', 'over="6h"')
    folder = edited(tmp_path, narrower)
    first = stage(folder, home, why="a try", **BY)["fold"]
    with monkeypatch.context() as patched:
        patched.setattr(view_backfill, "_decide", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            backfill(folder, home, [], **BY)
    assert home.fold(first).exists()
    stage(after.folder, home, why="better", **BY)
    backfill(after.folder, home, [], **BY)
    assert not home.fold(first).exists()
    go_on(home, after, events)
    assert as_published(home, after) == from_the_start(home, after, tmp_path)


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["nothing", "no tables"])
def test_a_first_fold_that_died_before_its_file_had_tables_begins_anew(
    home: Home, before: Pipeline, content: str
) -> None:
    path = home.fold("features")
    for file in path.parent.glob("features.sqlite*"):
        file.unlink()
    path.touch()
    if content == "no tables":
        with closing(apsw.Connection(str(path))) as db:
            db.execute("PRAGMA user_version = 7")
    with closing(open_run(before, home)) as run:
        assert run.folds.features.clock > 0
        assert {change.what for change in changes_of(before, home)} == {"unchanged"}
