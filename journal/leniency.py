"""What the modes beside ``freeze`` make of data that breaks its contract: less data that may hold, and what went.

Data that holds never comes here, so leniency costs nothing where nothing is wrong.

::

    evolve           an unknown field is left out; a whole number written as 7.0 is the integer 7
    discard_value    an unknown field is left out; so is an optional value that breaks a rule
    discard_row      the event is left out whole
"""

from typing import Any

import msgspec

from journal.contract import Contract
from journal.decoder import LONGEST_NAME
from journal.field import Field

LARGEST_NAMES = 64
"""How many names of unknown fields are counted apart, per stream and process; all others are counted as ``*``."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_number = msgspec.json.Decoder(float).decode


class Leniency:
    """One stream's way with what breaks its contract."""

    def __init__(self, contract: Contract) -> None:
        self._stream = contract.stream
        self._drops_values = contract.mode == "discard_value"
        self._fields = {field.name: field for field in contract.fields}
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {
            field.name: msgspec.json.Decoder(field.annotation(), strict=True) for field in contract.fields
        }
        self._hides_names = bool(contract.personal)
        self._known: set[str] = set()

    def prune(self, data: msgspec.Raw) -> tuple[bytes, list[str]]:
        """The data without what the mode lets go of, and a tally's name for each thing gone.

        Raises:
            msgspec.ValidationError: The data is no object.
        """
        kept: dict[str, msgspec.Raw] = {}
        gone: dict[str, None] = {}
        for name, value in _members(data).items():
            field = self._fields.get(name)
            if field is None:
                gone[f"unknown.{self._stream}.{self._shown(name)}"] = None
            elif (mended := self._mended(field, value)) is not None:
                kept[name] = mended
            else:
                gone[f"discarded_value.{self._stream}.{name}"] = None
        return msgspec.json.encode(kept), list(gone)

    def _mended(self, field: Field, value: msgspec.Raw) -> msgspec.Raw | None:
        """What stays of a value: None when it goes. A value that stays may still be wrong."""
        if self._drops_values:
            return value if field.required or self._holds(field, value) else None
        return _as_integer(value) if field.type == "integer" and not self._holds(field, value) else value

    def _holds(self, field: Field, value: msgspec.Raw) -> bool:
        try:
            self._decoders[field.name].decode(value)
        except msgspec.ValidationError:
            return False
        return True

    def _shown(self, name: str) -> str:
        """The name as a tally says it; ``*`` where it may be personal, is no plain name, or one too many."""
        if name in self._known:
            return name
        if self._hides_names or len(self._known) >= LARGEST_NAMES or not _is_plain(name):
            return "*"
        self._known.add(name)
        return name


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isidentifier() and len(name) <= LONGEST_NAME


def _as_integer(value: msgspec.Raw) -> msgspec.Raw:
    """The same number as an integer where it is a whole one that a float holds exactly; else as it came."""
    try:
        number = _number(value)
    except msgspec.ValidationError:
        return value
    exact = number.is_integer() and abs(number) <= _EXACT
    return msgspec.Raw(msgspec.json.encode(int(number))) if exact else value


_EXACT = 2**53
