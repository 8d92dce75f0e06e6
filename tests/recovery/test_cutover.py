"""Folds that other libraries wrote are rebuilt beside their files, under kills, while events come and rows are read."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from features.history import open_dataset
from journal.checkpoint import positions_in
from journal.rebuild import CUTOVER, cutovers_in
from journal.sqlite_reader import SqliteReader
from rivermill.online_rows import FollowedRows, followed_rows
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.status import status_of
from rivermill.wiring import FOLDS, control_of, make_ready, open_run
from tests.aged import Pair, age, pairs_in
from tests.crash.live import PATIENCE, Live, digest_of, replayed, send
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.slow

EVENTS, PLAYED, KILLS = 3_000, 2_000, 3


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "flights")


@pytest.fixture(scope="module")
def events(pipeline: Pipeline) -> Sequence[bytes]:
    assert pipeline.recorded is not None
    return list(islice(pipeline.recorded(), EVENTS))


@pytest.fixture(scope="module")
def zygote(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with closing(Zygote(pipeline.folder, log=tmp_path_factory.mktemp("zygote") / "log")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def played(pipeline: Pipeline, events: Sequence[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("played")
    with closing(open_run(pipeline, Home(root, pipeline.name))) as run:
        run.lockstep.play(iter(events[:PLAYED]), "test")
        run.folds.flush_history()
    return root


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Home:
    shutil.copytree(played, tmp_path / "home")
    home = Home(tmp_path / "home", "flights")
    age(home)
    return home


def are_blank(rows: FollowedRows, wanted: Sequence[Pair]) -> bool:
    found = rows.get_many(wanted)
    return all(row is not None and set(row.values or ()) == {None} for row in found)


def until_taken_over(rows: FollowedRows, wanted: Sequence[Pair]) -> None:
    """As a process that answers waits."""
    give_up = time.monotonic() + PATIENCE
    while are_blank(rows, wanted):
        assert time.monotonic() < give_up
        rows.follow()
        time.sleep(0.01)


def history_of(home: Home, incarnation: str) -> dict[str, list[dict[str, Any]]]:
    folders = sorted(home.history(incarnation).iterdir())
    return {each.name: open_dataset(each).to_table().sort_by("known_timestamp").to_pylist() for each in folders}


def test_killed_on_the_way_every_fold_takes_over_when_it_has_caught_up_and_nothing_is_there_twice(
    home: Home, pipeline: Pipeline, events: Sequence[bytes], zygote: Zygote, tmp_path: Path
) -> None:
    wanted = pairs_in(home)[:100]
    make_ready(pipeline, home)
    with (
        closing(SqliteReader(home.journal)) as journal,
        closing(followed_rows(pipeline, home, journal.incarnation)) as rows,
    ):
        assert are_blank(rows, wanted), "what is read was not touched by the start"
        live = Live(zygote, home, pipeline.folder)
        producer = send(live, iter(events[PLAYED:]))
        for _ in range(KILLS):
            live.kill("worker")
        until_taken_over(rows, wanted)
        producer.join()
        live.stop()
        journal.refresh()
        names = set(positions_in(home.fold("x").parent))
        assert all(len(cutovers_in(journal, name)) == 1 for name in names)
        incarnation = journal.incarnation
    assert names >= set(FOLDS)
    assert {entry.principal for entry in control_of(home).entries("flights") if entry.action == CUTOVER} == {"worker"}
    with closing(open_run(pipeline, home)) as run:
        found = digest_of(run)
        run.folds.flush_history()
    elsewhere = tmp_path / "replayed"
    assert replayed(home, pipeline, elsewhere) == found
    assert history_of(home, incarnation) == history_of(Home(elsewhere, "flights"), incarnation)


def test_what_is_being_rebuilt_is_shown_and_kept_from_retention(home: Home, pipeline: Pipeline) -> None:
    make_ready(pipeline, home)
    positions = positions_in(home.fold("x").parent)
    beside = {name for name in positions if name.startswith("successors/")}
    assert {name.removeprefix("successors/").partition("-")[0] for name in beside} == {*FOLDS, "quality"}
    assert {positions[name] for name in beside} == {-1}
    (status,) = status_of(home.root)
    assert {status["lag"][name] for name in beside} == {status["records"]}


def test_in_lock_step_nobody_reads_meanwhile_and_folds_are_rebuilt_in_place(home: Home, pipeline: Pipeline) -> None:
    with closing(open_run(pipeline, home)) as run:
        assert not cutovers_in(run.journal, "features")
        assert run.folds.features.digest()
    assert set(positions_in(home.fold("x").parent)) >= set(FOLDS)
    assert not list(home.fold("x").parent.glob("successors/*"))


def test_where_there_is_nothing_to_read_on_everything_is_rebuilt_before_the_start(
    home: Home, pipeline: Pipeline
) -> None:
    home.fold("features").unlink()
    make_ready(pipeline, home)
    positions = positions_in(home.fold("x").parent)
    assert positions.keys() == {*FOLDS, "quality"}
    with closing(SqliteReader(home.journal)) as journal:
        assert positions["features"] == journal.end()
