"""Every example's two answers, the learner's own and the one that was served: for exact figures, 33 bytes each.

Full chunks of 512 go to the fold's file; the last one travels with the learner's state. So memory stays flat, and the
file ends where the state that counts its rows does.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from journal.checkpoint import FoldFile
from journal.errors import Corrupt
from training.metrics import Prequential, exact_auc

CHUNK = 512

_ROW = np.dtype([("prediction", "<i8"), ("at", "<i8"), ("score", "<f8"), ("served", "<f8"), ("outcome", "?")])
_pack_row = struct.Struct("<qqdd?").pack
_CHUNK_BYTES = CHUNK * _ROW.itemsize
_SPACE = "scores"
_KEY_BYTES = 8


class Scores:
    """An append-only table of answers and outcomes, in the order of the examples."""

    def __init__(self) -> None:
        self._file: FoldFile | None = None
        self._chunks = 0
        self._tail = bytearray()

    def __len__(self) -> int:
        return self._chunks * CHUNK + len(self._tail) // _ROW.itemsize

    def append(self, prediction: int, at: int, score: float, served: float, outcome: bool) -> None:
        """Add an example: its prediction's offset and ``at``, the learner's score, the served score, the outcome."""
        self._tail += _pack_row(prediction, at, score, served, outcome)

    def save(self, file: FoldFile) -> bytes:
        """Move full chunks to the file, in its open transaction; return the rows that remain."""
        full = len(self._tail) // _CHUNK_BYTES
        cuts = [self._tail[n * _CHUNK_BYTES : (n + 1) * _CHUNK_BYTES] for n in range(full)]
        file.put(_SPACE, ((_key(self._chunks + n), bytes(chunk)) for n, chunk in enumerate(cuts)))
        del self._tail[: full * _CHUNK_BYTES]
        self._chunks += full
        self._file = file
        return bytes(self._tail)

    def load(self, file: FoldFile, count: int, tail: bytes) -> None:
        """Take up the table at ``count`` rows, the last of them in ``tail``; later chunks in the file are forgotten.

        Raises:
            Corrupt: The file holds fewer rows than were counted.
        """
        keys = [key for key, _ in file.scan(_SPACE)]
        self._chunks = count // CHUNK
        with file.transaction():
            file.delete(_SPACE, keys[self._chunks :])
        self._tail = bytearray(tail)
        self._file = file
        if keys[: self._chunks] != [_key(n) for n in range(self._chunks)] or len(self) != count:
            raise Corrupt(
                which=f"{file.path.name} does not hold the {count} scores that its state has counted",
                fix="Delete this file: the fold is rebuilt from the journal at the next start",
            )

    def report(self, since: int | None = None, answer: str = "score") -> dict[str, Any]:
        """The exact figures over the questions asked at or after a time (microseconds), or over all of them.

        Args:
            since: The first moment that counts; None for all.
            answer: ``score`` judges the learner's own answers, ``served`` those that were given.

        Returns:
            ``examples``, ``auc`` (None while a class is missing), ``log_loss`` (None without examples),
            ``calibration_error`` and ``calibration``: [examples, mean score, positive rate] per tenth that has any.
        """
        rows = np.concatenate(list(self.rows(since)))
        figures = Prequential()
        for score, outcome in zip(rows[answer].tolist(), rows["outcome"].tolist(), strict=True):
            figures.update(score, outcome)
        return {
            "examples": len(rows),
            "auc": exact_auc(rows[answer], rows["outcome"]),
            "log_loss": figures.log_loss.mean if len(rows) else None,
            "calibration_error": figures.calibration.error(),
            "calibration": [list(row) for row in figures.calibration.bins()],
        }

    def table(self) -> NDArray[np.void]:
        """Every row as one array, in order."""
        return np.concatenate(list(self.rows()))

    def rows(self, since: int | None = None) -> Iterator[NDArray[np.void]]:
        """The chunks of (prediction, at, score, served, outcome) in order, of questions asked at or after ``since``."""
        for chunk in self._stored():
            rows = np.frombuffer(chunk, _ROW)
            yield rows if since is None else rows[rows["at"] >= since]

    def _stored(self) -> Iterator[bytes]:
        if self._file is not None:
            yield from (chunk for _, chunk in self._file.scan(_SPACE))
        yield bytes(self._tail)


def stored_rows(file: FoldFile, count: int, tail: bytes) -> NDArray[np.void]:
    """The table as a checkpoint left it, for whoever does not own the file: ``count`` rows, the last in ``tail``."""
    chunks = [chunk for _, chunk in file.scan(_SPACE)][: count // CHUNK]
    return np.frombuffer(b"".join([*chunks, tail]), _ROW)


def _key(chunk: int) -> bytes:
    return chunk.to_bytes(_KEY_BYTES)
