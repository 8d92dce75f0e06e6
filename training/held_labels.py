"""Labels under ``joins: last`` that wait until every question before them is answered: only then is the last known.

A held label has the answers that it found waiting, and takes those to questions before it that come later. They do not
expire meanwhile: the label was there in time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from journal.checkpoint import FoldFile
from training.label_rule import Pending
from training.unanswered import Unanswered

_SPACE = "held"
_OFFSET_BYTES = 8


class Held(NamedTuple):
    """A label that waits: its offset, key and outcome, and the answers of which it joins the last."""

    label: int
    key: str
    outcome: bool
    answers: tuple[Pending, ...]


_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack = msgspec.msgpack.Decoder(Held).decode


class HeldLabels:
    """By offset, oldest first: a label that may be read is never behind one that may not.

    Attributes:
        by_label: Every held label. To be changed by the verbs below alone.
    """

    def __init__(self) -> None:
        self.by_label: dict[int, Held] = {}
        self._of_key: dict[str, list[int]] = {}
        self._touched: set[int] = set()

    def hold(self, held: Held) -> None:
        """Hold one more; they come in the journal's order."""
        self.by_label[held.label] = held
        self._of_key.setdefault(held.key, []).append(held.label)
        self._touched.add(held.label)

    def take(self, prediction: Pending) -> bool:
        """Give an answer to the first label of its key behind its question; whether there is one."""
        label = next((one for one in self._of_key.get(prediction.key, ()) if prediction.question < one), None)
        if label is None:
            return False
        held = self.by_label[label]
        self.by_label[label] = held._replace(answers=(*held.answers, prediction))
        self._touched.add(label)
        return True

    def ready(self, unanswered: Unanswered) -> Iterator[Held]:
        """Let go of those before which every question is answered, oldest first."""
        while self.by_label:
            label = next(iter(self.by_label))
            if unanswered.precede(label):
                return
            held = self.by_label.pop(label)
            self._touched.add(label)
            labels = self._of_key[held.key]
            labels.remove(label)
            if not labels:
                del self._of_key[held.key]
            yield held

    def waiting(self) -> int:
        """How many answers they have."""
        return sum(len(held.answers) for held in self.by_label.values())

    def items(self) -> Sequence[Held]:
        """All of them, oldest first."""
        return list(self.by_label.values())

    def load(self, file: FoldFile) -> None:
        """Read what `save` wrote."""
        for _, value in file.scan(_SPACE):
            self.hold(_unpack(value))
        self._touched.clear()

    def save(self, file: FoldFile) -> None:
        """Write what was touched since the last save."""
        touched, held = sorted(self._touched), self.by_label
        file.put(_SPACE, ((label.to_bytes(_OFFSET_BYTES), _pack(held[label])) for label in touched if label in held))
        file.delete(_SPACE, (label.to_bytes(_OFFSET_BYTES) for label in touched if label not in held))
        self._touched.clear()
