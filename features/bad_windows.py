"""Windows of bad data, as ranges of journal offsets: what lies in them is not trained on."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from features.dataset_range import first_known
from journal.quality import alerts_in
from journal.reading import Readable

PREDICTIONS = "predictions"
EXAMPLES = "examples"


class BadWindow(NamedTuple):
    """The records from an offset up to another that a rule found bad."""

    rule: str
    first: int
    behind: int


class _Spans:
    """The bad windows of one stream, cut where one of them begins or ends."""

    def __init__(self, windows: Sequence[BadWindow]) -> None:
        self._bounds = sorted({bound for window in windows for bound in (window.first, window.behind)})
        self._rules = [
            next((window.rule for window in windows if window.first <= bound < window.behind), None)
            for bound in self._bounds
        ]

    def rule_at(self, offset: int) -> str | None:
        """The first rule, in the order of the alerts, whose window holds this offset."""
        index = bisect_right(self._bounds, offset) - 1
        return self._rules[index] if index >= 0 else None


class BadWindows:
    """Every bad window of a journal range."""

    def __init__(self, journal: Readable, through: int) -> None:
        """Read the alerts up to an offset. ``at`` rises with the offset, so a window of time is a range of offsets."""
        self._journal = journal
        windows: dict[str, list[BadWindow]] = {}
        for record, alert in alerts_in(journal, through):
            if alert.is_breach:
                first, behind = (first_known(journal, at, record.offset) for at in (alert.begins, alert.ends))
                windows.setdefault(alert.stream, []).append(BadWindow(alert.name, first, behind))
        self._spans = {stream: _Spans(windows[stream]) for stream in sorted(windows)}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._spans)

    def rule_against(self, *, question: int, prediction: int, label: int, example: int) -> str | None:
        """The rule in whose bad window one of these records lies, if it is about that record's stream.

        Args:
            question: Offset of the question.
            prediction: Of its answer.
            label: Of the outcome.
            example: Of the record that joined them.
        """
        for offset, known in ((question, ""), (prediction, PREDICTIONS), (label, ""), (example, EXAMPLES)):
            for stream, spans in self._spans.items():
                rule = spans.rule_at(offset) if known in ("", stream) else None
                if rule is not None and stream == (known or self._stream_of(offset)):
                    return rule
        return None

    def _stream_of(self, offset: int) -> str:
        return self._journal.read(0, offset - 1, 1)[0].stream
