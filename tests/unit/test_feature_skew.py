"""What skew knows of a journal: which services are declared, and from when on a view that came later was live."""

import pytest

from features.view_sets import PUBLISH_VIEWS
from journal.body import Decision, draft_of
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind
from rivermill.feature_skew import known_of, published_in
from rivermill.pipeline import load_pipeline
from rivermill.settings import configs_folder


def decided(action: str, sequence: int, *views: str) -> Draft:
    body = Decision(sequence=sequence, action=action, subject="s", why="w", details={"views": list(views)})
    return draft_of(body, kind=Kind.DECISION, stream="control", id=f"{sequence}")


@pytest.fixture
def journal() -> MemoryJournal:
    journal = MemoryJournal("t")
    journal.append([Draft(kind=Kind.SOURCE, stream="s", id="1", time=1_000, body=b"{}")])
    return journal


def test_a_view_is_live_from_the_first_decision_on_that_publishes_it(journal: MemoryJournal) -> None:
    journal.append([decided("promote", 1, "sales@1")])
    assert published_in(journal) == {}
    journal.append([decided(PUBLISH_VIEWS, 2, "sales@2", "stock@1")])
    journal.append([decided(PUBLISH_VIEWS, 3, "stock@1", "stock@2")])
    promoted, first, second = journal.of_kind(Kind.DECISION, 0, 9)
    assert promoted.at < first.at < second.at
    assert published_in(journal) == {"sales@2": first.at, "stock@1": first.at, "stock@2": second.at}


def test_the_declared_services_are_named_as_predictions_name_them(journal: MemoryJournal) -> None:
    pipeline = load_pipeline(configs_folder() / "phishing")
    known = known_of(pipeline, journal)
    assert known.services == {pipeline.service.label}
    assert known.published == {}
