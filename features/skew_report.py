"""What a comparison of served features with rebuilt ones came to, and how it is counted."""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from journal.body import Stamp

Cause = Literal["definition", "backfill", "ttl", "late event", "unknown"]
CAUSES: tuple[Cause, ...] = ("definition", "backfill", "ttl", "late event", "unknown")
"""Why a served feature may differ, in the order in which they are looked for."""

WHOLE_ROW = ""
"""The feature's name where not a value differs but a row is not what it should be."""

MOST_EXAMPLES = 10
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """One difference.

    Attributes:
        prediction: Offset of the prediction.
        at: Its journal time, in microseconds.
        key: Its label's key.
        view: The view, as ``name@version``.
        feature: Which of its fields; empty where the row as a whole is not what it should be.
        cause: One of `CAUSES`.
        served: The value that the prediction holds.
        rebuilt: The value that the rebuild has.
        stamp: (event, known) of the row that was served; None where none was.
        rebuilt_stamp: (event, known) of the rebuilt row; None where there is none.
    """

    prediction: int
    at: int
    key: str
    view: str
    feature: str
    cause: Cause
    served: Any
    rebuilt: Any
    stamp: Stamp | None
    rebuilt_stamp: Stamp | None


class ViewSkew(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one view.

    Attributes:
        view: As ``name@version``.
        rows: Served rows that were compared.
        values: Their values.
        missing: Predictions for which it rightly had nothing.
        mismatches: Differences.
        causes: The same by cause.
        features: The same by feature; `WHOLE_ROW` for rows.
        behind: Served rows that were not the newest when the prediction was recorded.
        freshness: By how much, in microseconds of known time, over all compared rows: quantiles by name.
    """

    view: str
    rows: int
    values: int
    missing: int
    mismatches: int
    causes: dict[str, int]
    features: dict[str, int]
    behind: int
    freshness: dict[str, int]


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison.

    Attributes:
        predictions: Predictions in the range.
        without_features: Those that answered without features.
        undeclared: By view, predictions that hold it at a version which is not declared any more: not compared.
        rows: Served rows that were compared.
        values: Their values.
        mismatches: Differences.
        causes: The same by cause.
        views: By view, in the order in which predictions first named them.
        examples: The first differences.
    """

    predictions: int
    without_features: int
    undeclared: dict[str, int]
    rows: int
    values: int
    mismatches: int
    causes: dict[str, int]
    views: list[ViewSkew]
    examples: list[Mismatch]

    @property
    def is_void(self) -> bool:
        """Whether views were served and none of their rows could be compared: no mismatch then proves nothing."""
        return bool(self.undeclared) and not self.rows


class Tally:
    """What is counted about one view on the way."""

    def __init__(self) -> None:
        self.rows = self.values = self.missing = 0
        self.causes, self.features = Counter[str](), Counter[str]()
        self.lags = array("q")

    def report(self, view: str) -> ViewSkew:
        """What it came to."""
        lags = sorted(self.lags)
        return ViewSkew(
            view=view,
            rows=self.rows,
            values=self.values,
            missing=self.missing,
            mismatches=self.causes.total(),
            causes=dict(sorted(self.causes.items())),
            features=dict(sorted(self.features.items())),
            behind=sum(lag > 0 for lag in lags),
            freshness={name: _quantile(lags, part) for name, part in _QUANTILES.items()} if lags else {},
        )


def _quantile(ordered: Sequence[int], part: float) -> int:
    """The smallest value that this part of all values does not exceed."""
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]
