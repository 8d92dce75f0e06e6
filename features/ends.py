"""How each prediction of a journal range ended: with an outcome, with a reason, or not yet."""

from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from journal.bodies import Body, bodies_of
from journal.body import Expired
from journal.log import START
from journal.reading import ByKind
from journal.record import Kind

PENDING = "pending"

Offsets = NDArray[np.int64]


class _Joined(msgspec.Struct, frozen=True, gc=False):
    prediction: int
    label: int
    outcome: bool


_decode_joined = msgspec.json.Decoder(_Joined).decode
_decode_expired = msgspec.json.Decoder(Expired).decode


class Ends:
    """Every end that a journal range records, by the offset of its prediction."""

    def __init__(self, journal: ByKind, through: int, first: int = 0) -> None:
        """Read the examples and expiries.

        Args:
            journal: Where.
            through: Last offset of the range.
            first: Offset of the first prediction that matters; its end stands behind it.
        """
        joined = [
            (example.prediction, example.label, offset, example.outcome)
            for offset, _, body in each_body(journal, Kind.EXAMPLE, first, through)
            for example in (_decode_joined(body),)
        ]
        columns = np.array(joined, np.int64).reshape(-1, 4)
        columns = columns[np.argsort(columns[:, 0], kind="stable")]
        self._predictions, self.labels, self.examples, outcomes = (np.ascontiguousarray(column) for column in columns.T)
        self.outcomes = outcomes.astype(np.bool_)
        self._reasons = {
            expired.prediction: expired.reason
            for _, _, body in each_body(journal, Kind.EXPIRED, first, through)
            for expired in (_decode_expired(body),)
        }

    def find(self, predictions: Offsets) -> Offsets:
        """For each prediction the place of its outcome, or -1; where it was joined more than once, of the last."""
        places = np.searchsorted(self._predictions, predictions, side="right") - 1
        # Without any example a place is -1, and there is nothing to compare it with.
        known = self._predictions[places] if len(self._predictions) else np.full_like(predictions, -1)
        return np.where((places >= 0) & (known == predictions), places, -1)

    def reasons(self, predictions: Offsets) -> Counter[str]:
        """Why these have no outcome, counted."""
        return Counter(self._reasons.get(offset, PENDING) for offset in predictions.tolist())


def each_body(journal: ByKind, kind: Kind, first: int, through: int) -> Iterator[Body]:
    """Every record of a kind in a range, in order."""
    after = max(first - 1, START)
    while page := bodies_of(journal, kind, after):
        for body in page:
            if body.offset > through:
                return
            yield body
        after = page[-1].offset
