"""A pipeline whose online rows have a copy in a real Redis: the same rows, the same answers, and answers without it."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pytest

from features.online_table import OnlineReader
from features.reader import Source
from features.redis_copy import RedisSource
from features.redis_line import RedisLine
from features.rows import Row
from journal.body import Prediction
from journal.errors import StoreDown
from journal.log import START
from journal.reading import read_one
from journal.record import Kind
from rivermill.genesis import definition_of
from rivermill.online_rows import rows_of
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import REDIS_VARIABLE, Home, configs_folder
from rivermill.wiring import answering_of, champion_of, open_run

pytestmark = pytest.mark.slow

EVENTS = 5_000


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("redis"))
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"redis://127.0.0.1:{port}/0"
    with closing(RedisLine(address, 30)) as line:
        while server.poll() is None:
            with suppress(StoreDown):
                line.ask("PING")
                break
    yield address
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "flights")


@pytest.fixture
def home(tmp_path: Path, pipeline: Pipeline, redis: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Played with Redis named, and caught up with as a worker does while nothing comes."""
    monkeypatch.setenv(REDIS_VARIABLE, redis)
    home = Home(tmp_path, pipeline.name)
    assert pipeline.recorded is not None
    with closing(open_run(pipeline, home)) as run:
        for event in islice(pipeline.recorded(), EVENTS):
            run.lockstep.offer(event)
        run.lockstep.commit_folds()
        assert run.folds.copy is not None
        while run.folds.copy.is_behind:
            run.folds.table.tend()
    return home


def stored(home: Home, pipeline: Pipeline) -> dict[tuple[str, bytes], Row]:
    with closing(OnlineReader(home.fold("features"))) as reader:
        rows = [(str(view), bytes(key)) for view, key in reader._db.execute("SELECT view, key FROM online")]
        found = reader.get_many(rows)
    assert {view for view, _ in rows} <= {view.name for view in pipeline.views}
    return {pair: row for pair, row in zip(rows, found, strict=True) if row is not None}


def test_redis_holds_what_the_folds_file_holds(home: Home, pipeline: Pipeline) -> None:
    rows = stored(home, pipeline)
    with closing(open_run(pipeline, home)) as run:
        incarnation = run.journal.incarnation
    source = rows_of(pipeline, home, incarnation)
    assert isinstance(source, RedisSource)
    with closing(source):
        assert len(rows) > 2_000
        assert source.get_many(list(rows)) == list(rows.values())


def test_answers_from_redis_are_those_from_the_file(
    home: Home, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_run(pipeline, home)) as run:
        asked = run.journal.read(0, START, EVENTS * 9)
        questions = [each for each in asked if each.kind is Kind.SOURCE and each.stream == pipeline.question.stream]
        champion = champion_of(pipeline, home, read_one(run.journal))
        definition, incarnation = definition_of(pipeline), run.journal.incarnation
        from_redis = rows_of(pipeline, home, incarnation)
        monkeypatch.delenv(REDIS_VARIABLE)
        from_file = rows_of(pipeline, home, incarnation)
        assert isinstance(from_file, OnlineReader)

        def answers(rows: Source) -> list[Prediction]:
            answering = answering_of(pipeline, definition, rows, champion)
            return [answering.answer(each.data, START, each.at) for each in questions[-50:]]

        with closing(from_redis), closing(from_file):
            told = answers(from_redis)
            assert told == answers(from_file)
    assert any(stamp is not None for prediction in told for stamp in prediction.stamps)
