"""A question and its outcome that the live service would take now, made from the journal's own last ones."""

import orjson

from journal.clock import MINUTE, format_time
from journal.log import START
from journal.record import Kind, Record
from rivermill.wiring import Run

_PAGE = 2_000
SOURCE = "curl"


def example_of(run: Run) -> dict[str, str] | None:
    """The bodies of a request to predict and of one to labels; None where there is no pair to copy, or it is sealed.

    The question is the last one that got an outcome, asked again under a key of its own. Its outcome's time is the
    journal's now, so that no clock jumps.
    """
    contracts = run.pipeline.contracts
    sealed = contracts[run.pipeline.question.stream].personal | contracts[run.pipeline.label.stream].personal
    pair = None if sealed else _last_pair(run)
    if pair is None:
        return None
    question, label = pair
    rules = run.pipeline
    key = f"{question.data[rules.question.key]}"
    asked = {"id": f"ask {key}", "data": question.data}
    outcome = {
        "specversion": "1.0",
        "id": f"outcome {key}",
        "source": SOURCE,
        "type": rules.label.stream,
        "time": format_time(run.journal.clock + MINUTE),
        "data": label.data,
    }
    return {"question": orjson.dumps(asked).decode(), "outcome": orjson.dumps(outcome).decode()}


def _last_pair(run: Run) -> tuple[Record, Record] | None:
    """The last question that has an outcome, with the event that brought it."""
    lift, end = run.pipeline.adapters.lift, run.journal.end()
    after = max(end - _PAGE, START)
    while end > START:
        for record in reversed(run.journal.read(0, after, end - after)):
            if record.kind is Kind.EXAMPLE:
                prediction = run.journal.read(0, record.data["prediction"] - 1, 1)[0]
                question = run.journal.read(0, prediction.data["question"] - 1, 1)[0]
                label = run.journal.read(0, record.data["label"] - 1, 1)[0]
                return lift(question), lift(label)
        end, after = after, max(after - _PAGE, START)
    return None
