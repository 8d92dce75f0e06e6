"""Ten weeks of real flights, played once for every test that looks at them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run

WEEKS = 10


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The run, its history flushed: what `rivermill demo --weeks 10` leaves."""
    root: Path = tmp_path_factory.mktemp("flights")
    pipeline = load_pipeline(configs_folder() / "flights")
    assert pipeline.recorded is not None
    run = open_run(pipeline, Home(root, "flights"))
    run.lockstep.play(pipeline.recorded(weeks=WEEKS), "test")
    run.folds.flush_history()
    yield run
    run.close()
