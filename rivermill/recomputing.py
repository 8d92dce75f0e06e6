"""An answer once more: its features from the journal, its score from the stored model, with nothing else to help.

The views are computed again from the journal's first record; each gives the very row that the prediction names by its
stamp. The model is loaded from its blob, its signature and digest checked. Whether a value was past its TTL is judged
at the moment that the records tell. What comes out must be what was recorded, to the last bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from features.replay import RowPlace, rows_at
from features.rows import Row
from features.served import key_of
from journal.body import Prediction
from journal.errors import Refused
from journal.log import START
from journal.reading import Readable, read_one
from journal.record import Kind, Record
from rivermill.feature_skew import replay_rules
from rivermill.genesis import definition_of
from rivermill.pipeline import Pipeline
from rivermill.progress_bar import Tell
from rivermill.settings import Home
from rivermill.wiring import answering_of, champion_of
from serving.champion import Champion, ChampionState, Served

_NOT_RECOMPUTED = frozenset({"key", "question", "now", "build"})
"""What the answer was told, and the code that gave it."""
_TELL_EVERY = 1_000


class Recomputed(NamedTuple):
    """An answer that was computed again.

    Attributes:
        answer: What came out now.
        differences: The fields in which it is not what was recorded.
    """

    answer: Prediction
    differences: tuple[str, ...]


def recompute(
    pipeline: Pipeline, home: Home, journal: Readable, prediction: Prediction, tell: Tell = lambda _, __: None
) -> Recomputed:
    """Compute a recorded answer again, and compare.

    Args:
        pipeline: As it was when the answer was given, as far as features go.
        home: Where its blobs are.
        journal: From its first record on.
        prediction: What was recorded.
        tell: Told now and then how many records of how many were read.

    Raises:
        Refused: It was given on other feature definitions than the pipeline's present ones.
        NoLongerProvable: Retention let go of the journal's beginning.
        UnknownName, Corrupt, Untrusted: The model's blob is gone, damaged, or not what we signed.
    """
    if prediction.service != pipeline.service.label:
        raise Refused(
            which=f"it was answered on service {prediction.service}, and views.py declares {pipeline.service.label}",
            fix="Ask with the pipeline's folder as it was then",
        )
    rules = replay_rules(pipeline, journal)
    question = rules.lift(read_one(journal)(prediction.question))

    def progress(record: Record) -> None:
        if record.offset % _TELL_EVERY == 0:
            tell(record.offset, prediction.question)

    source = _Recorded(rows_at(journal, rules, _places(pipeline, question, prediction), progress))
    champion = champion_of(pipeline, home, read_one(journal))
    _serve_again(champion, prediction)
    answering = answering_of(pipeline, definition_of(pipeline), source, champion)
    if _was_without_features(prediction, question):
        answer = answering.answer_without_features(question.data, prediction.question)
    else:
        answer = answering.answer(question.data, prediction.question, prediction.judged_at(question))
    return Recomputed(answer, differences(prediction, answer))


def differences(recorded: Prediction, again: Prediction) -> tuple[str, ...]:
    """The fields that are not equal to the last bit; an integer is no float."""
    names = [name for name in Prediction.__struct_fields__ if name not in _NOT_RECOMPUTED]
    return tuple(name for name in names if _bits(recorded, name) != _bits(again, name))


def _bits(prediction: Prediction, name: str) -> bytes:
    return msgspec.json.encode(getattr(prediction, name))


def _serve_again(champion: Champion, prediction: Prediction) -> None:
    served = Served(line=prediction.line, snapshot=prediction.snapshot, control=prediction.control)
    places = {} if prediction.snapshot == START else {prediction.line: prediction.snapshot}
    champion.restore(ChampionState(served=served, places=places))


def _was_without_features(prediction: Prediction, question: Record) -> bool:
    """Whether they could not be read: then no staleness was judged, and over HTTP its moment would be recorded."""
    return prediction.degraded and prediction.now is None and question.kind is Kind.QUESTION


def _places(pipeline: Pipeline, question: Record, prediction: Prediction) -> Sequence[RowPlace]:
    """The rows that the prediction names."""
    views = zip(pipeline.service.views, prediction.stamps, strict=True)
    return [(view.name, key_of(view, question), stamp[1]) for view, stamp in views if stamp is not None]


class _Recorded:
    """Gives the rows that were named, and nothing of any other view."""

    def __init__(self, rows: dict[RowPlace, Row]) -> None:
        self._rows = {(view, key): row for (view, key, _), row in rows.items()}

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        """See `features.reader.Source`."""
        return [self._rows.get(place) for place in wanted]
