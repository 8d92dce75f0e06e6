"""Feast's SDK writes to a view that a pipeline owns: events for the journal, by way of its real owner."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore

from journal.clock import datetime_of
from journal.errors import Refused
from journal.reading import each_of
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import feast_store, open_run

pytestmark = pytest.mark.slow

FOLDER = configs_folder() / "flights"
WRITERS = 8
PUSHES = 5


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Some events were played, and the journal's owner runs."""
    home, pipeline = Home(tmp_path, "flights"), load_pipeline(FOLDER)
    assert pipeline.recorded is not None
    with closing(open_run(pipeline, home)) as run:
        run.lockstep.play(islice(pipeline.recorded(), 5_000), "test")
    owner = subprocess.Popen([sys.executable, "-m", "rivermill.owner_process", str(tmp_path), str(FOLDER)])
    while not home.socket.exists():
        assert owner.poll() is None
        time.sleep(0.05)
    yield home
    owner.terminate()
    owner.wait()


@pytest.fixture
def store(home: Home) -> FeatureStore:
    with closing(SqliteReader(home.journal)) as journal:
        return feast_store(home, journal.incarnation, journal.clock)


def observed(store: FeatureStore, moment: datetime, created: datetime, **values: Any) -> pd.DataFrame:
    names = [feature.name for feature in store.get_feature_view("weather").features]
    plain = dict.fromkeys(names, 1.0) | {"pressure": 1_000.0}
    stamps = {"event_timestamp": moment, "known_timestamp": created}
    return pd.DataFrame([{"origin": "JFK", **plain, **values, **stamps}])


def pushed(home: Home) -> list[Any]:
    with closing(SqliteReader(home.journal)) as journal:
        return [record for record in each_of(journal, Kind.SOURCE) if record.source == "feast:flights"]


def test_a_push_is_an_event_and_a_correction_back_is_another(home: Home, store: FeatureStore) -> None:
    with closing(SqliteReader(home.journal)) as journal:
        now = datetime_of(journal.clock)
    for minute, temp in ((0, 77.0), (1, 78.0), (2, 77.0), (2, 77.0)):
        store.write_to_online_store("weather", observed(store, now, now + timedelta(minutes=minute), temp=temp))
    assert [record.data["temp"] for record in pushed(home)] == [77.0, 78.0, 77.0], "the last was said twice"
    with pytest.raises(Refused, match=r"1 of 1 rows pushed to view 'weather' are not in stream 'weather'"):
        store.write_to_online_store("weather", observed(store, now, now, temp=1e9))


def test_eight_writers_at_once_lose_and_double_nothing(home: Home, store: FeatureStore) -> None:
    with closing(SqliteReader(home.journal)) as journal:
        now = datetime_of(journal.clock)

    def write(number: int) -> None:
        for n in range(PUSHES):
            moment = now + timedelta(seconds=number * PUSHES + n)
            store.write_to_online_store("weather", observed(store, moment, moment, temp=float(number), humid=float(n)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Counter((record.data["temp"], record.data["humid"]) for record in pushed(home))
    assert found == Counter((float(number), float(n)) for number in range(WRITERS) for n in range(PUSHES))
