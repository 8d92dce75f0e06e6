"""Events read by their contracts ahead of intake, in a process that has time for it.

One process appends all that a journal takes in. Whoever hands events in to it may read them first: an event that is
plainly what its contract says becomes the very draft that intake would make of it. All others go in as they came, as do
events about persons, whose keys are intake's to make.
"""

import hashlib
from collections.abc import Mapping

from journal.contract import Contract
from journal.envelope import read_envelope
from journal.errors import Discarded, Malformed, Violation
from journal.privacy import KeyTable
from journal.record import Draft
from journal.stream import Stream


class EventReader:
    """Reads events as intake does.

    Attributes:
        digest: Of the contracts. A draft counts only where intake has the same.
    """

    def __init__(self, contracts: Mapping[str, Contract], keys: KeyTable) -> None:
        """Compile the contracts.

        Args:
            contracts: By stream.
            keys: The pipeline's, for the hash that tells a repeat from a conflict.
        """
        self.digest = digest_of(contracts)
        self._streams = {name: Stream(contract, keys) for name, contract in contracts.items() if not contract.personal}

    def read(self, raw: bytes, principal: str) -> Draft | None:
        """The draft of an event that plainly follows the current contract of its stream; None of any other."""
        try:
            envelope = read_envelope(raw)
            stream = self._streams.get(envelope.type)
            if stream is None or envelope.dataschema is not None or len(raw) > stream.contract.max_bytes:
                return None
            fields = stream.read(envelope, raw)
        except (Malformed, Violation, Discarded):
            return None
        return None if stream.notes else stream.draft(envelope, envelope.time, fields, principal, None)


def digest_of(contracts: Mapping[str, Contract]) -> str:
    """Equal for equal contracts, in every process."""
    return hashlib.sha256(repr(sorted(contracts.items())).encode()).hexdigest()
