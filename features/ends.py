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
        bodies = list(each_body(journal, Kind.EXAMPLE, first, through))
        joined = [_decode_joined(each.body) for each in bodies]
        predictions = np.array([example.prediction for example in joined], np.int64)
        order = np.argsort(predictions, kind="stable")
        self._predictions = predictions[order]
        self.labels = np.array([example.label for example in joined], np.int64)[order]
        self.examples = np.array([each.offset for each in bodies], np.int64)[order]
        self.outcomes = np.array([example.outcome for example in joined], np.bool_)[order]
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
