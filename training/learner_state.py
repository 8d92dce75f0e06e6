"""Where a learner's state is kept: one blob, and a row in the fold's file that names, places and signs it.

Of the states before the last one a ladder is kept (`training.ladder`). What falls off it is marked in the transaction
that saves the new state, and its blob is removed at the save after that: no crash leaves a row that names a blob which
is gone.
"""

from typing import Any

import msgspec

from journal.blobs import Blobs
from journal.checkpoint import FoldFile
from journal.errors import Untrusted
from registry.signing import Signer
from training.ladder import ladder

_SPACE = "learner"
_LADDER = "learner's ladder"
_KEY = b"state"
_FIX = "Delete this file: the fold is rebuilt from the journal at the next start"


class LearnerState(msgspec.Struct, array_like=True, kw_only=True):
    """Everything a learner derives.

    Attributes:
        service: The feature service it learns from; empty before the first definition.
        columns: The service's columns.
        model: The flavor's dump.
        pending: (prediction's offset, its ``at``, score, served score) of every question that waits for its outcome.
        recent: (score, outcome) of the latest examples: what the guard will judge.
        figures: The running figures.
        counts: The counters.
        scores: How many score rows there are, those in the file included.
        last_scores: The rows that fill no chunk yet.
    """

    service: str
    columns: list[str]
    model: bytes
    pending: list[tuple[int, int, float, float]]
    recent: list[tuple[float, bool]]
    figures: list[Any]
    counts: dict[str, int]
    scores: int
    last_scores: bytes


class _Row(msgspec.Struct, array_like=True):
    offset: int
    address: str
    signature: str


class _Rung(msgspec.Struct, array_like=True):
    address: str
    falls: bool = False


_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack_state = msgspec.msgpack.Decoder(LearnerState).decode
_unpack_rung = msgspec.msgpack.Decoder(_Rung).decode
_unpack_row = msgspec.msgpack.Decoder(_Row).decode


class StateStore:
    """Writes and reads the states of one line."""

    def __init__(self, blobs: Blobs, signer: Signer, line: str, family: str) -> None:
        self._blobs = blobs
        self._signer = signer
        self._owner = ("learner's state", line, family)

    def write(self, file: FoldFile, offset: int, state: LearnerState) -> None:
        """Store a state that stands at an offset of the journal; its row joins the file's open transaction."""
        address = self._blobs.put(_pack(state))
        signature = self._signer.sign(*self._owner, str(offset), address)
        file.put(_SPACE, [(_KEY, _pack(_Row(offset, address, signature)))])
        self._prune(file, offset, address)

    def _prune(self, file: FoldFile, offset: int, address: str) -> None:
        rungs = {int.from_bytes(key): _unpack_rung(value) for key, value in file.scan(_LADDER)}
        standing = {place: rung.address for place, rung in rungs.items() if not rung.falls} | {offset: address}
        fallen = {place: rung.address for place, rung in rungs.items() if rung.falls and place != offset}
        for gone in set(fallen.values()) - set(standing.values()):
            self._blobs.remove(gone)
        file.delete(_LADDER, map(_key, fallen))
        kept = ladder(standing, offset)
        file.put(_LADDER, ((_key(at), _pack(_Rung(named, at not in kept))) for at, named in standing.items()))

    def rungs(self, file: FoldFile) -> dict[int, str]:
        """The addresses of the states that are kept, by the offset that each stands at."""
        rungs = ((int.from_bytes(key), _unpack_rung(value)) for key, value in file.scan(_LADDER))
        return {offset: rung.address for offset, rung in rungs if not rung.falls}

    def read(self, file: FoldFile) -> tuple[int, LearnerState] | None:
        """The last state with its offset; None before the first.

        Raises:
            Untrusted: The row was not signed here, or for another line, family, place or blob.
            Corrupt: The blob's bytes do not match its address.
        """
        stored = file.get(_SPACE, _KEY)
        if stored is None:
            return None
        try:
            row = _unpack_row(stored)
        except msgspec.DecodeError as error:
            raise Untrusted(which=f"{file.path.name}: {error}, so it is no state's row", fix=_FIX) from error
        self._signer.verify(row.signature, *self._owner, str(row.offset), row.address)
        return row.offset, _unpack_state(self._blobs.get(row.address))


def _key(offset: int) -> bytes:
    return offset.to_bytes(8)
