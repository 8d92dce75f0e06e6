"""From fields to checkers: a msgspec decoder for one event, a pandera schema for a frame. Both keep the same rules."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from journal.field import Field

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

MOST_REMEMBERED = 8192
"""How many texts are remembered as matching a pattern. Codes recur, and so do keys: the outcome names its question."""

MATCHED_LATELY: defaultdict[str, set[str]] = defaultdict(set)
"""By pattern the texts that matched it, in any stream of this process; never a personal one."""

LONGEST_NAME = 64
"""Unknown field names longer than this are not repeated in a reason, and longer values are not remembered."""


def struct_of(stream: str, fields: Sequence[Field]) -> type[msgspec.Struct]:
    """A struct with the stream's fields in the order of their names, which makes its dictionary canonical."""
    columns: list[Any] = [
        (field.name, field.annotation()) if field.required else (field.name, field.annotation(), None)
        for field in sorted(fields, key=lambda field: field.name)
    ]
    return msgspec.defstruct(stream, columns, kw_only=True, forbid_unknown_fields=True, gc=False)


def decoder_of(stream: str, fields: Sequence[Field]) -> msgspec.json.Decoder[msgspec.Struct]:
    """Compile the decoder of a stream's data: strict types, no unknown fields, absent is null."""
    return msgspec.json.Decoder(struct_of(stream, fields), strict=True)


class QuickDecoder:
    """Decodes as `decoder_of` does, some times faster: a text that matched its pattern lately is not matched again.

    Nothing personal is remembered.
    """

    def __init__(self, stream: str, fields: Sequence[Field]) -> None:
        self._whole = decoder_of(stream, fields).decode
        loose = [replace(field, limits=_without_pattern(field)) for field in fields]
        self._loose = decoder_of(stream, loose).decode
        patterned = [(field, str(field.limits["pattern"])) for field in fields if "pattern" in field.limits]
        self._open = [
            (field.name, MATCHED_LATELY[pattern], re.compile(pattern).search)
            for field, pattern in patterned
            if not field.personal
        ]
        self._personal = [(field.name, re.compile(pattern).search) for field, pattern in patterned if field.personal]

    def decode(self, data: bytes | msgspec.Raw) -> dict[str, Any]:
        """The fields in the order of their names; raises what the decoder of `decoder_of` raises."""
        try:
            fields = msgspec.structs.asdict(self._loose(data))
        except msgspec.ValidationError:
            # An earlier value may break its pattern, and it is the first fault that is told.
            self._whole(data)
            raise
        for name, matched, search in self._open:
            value = fields[name]
            if value not in matched and value is not None:
                if search(value) is None:
                    return msgspec.structs.asdict(self._whole(data))
                _remember(matched, value)
        for name, search in self._personal:
            value = fields[name]
            if value is not None and search(value) is None:
                return msgspec.structs.asdict(self._whole(data))
        return fields


def _remember(matched: set[str], text: str) -> None:
    if len(text) > LONGEST_NAME:
        return
    if len(matched) >= MOST_REMEMBERED:
        matched.clear()
    matched.add(text)


def _without_pattern(field: Field) -> dict[str, int | float | str]:
    return {name: bound for name, bound in field.limits.items() if name != "pattern"}


def frame_schema_of(stream: str, fields: Sequence[Field]) -> "pa.DataFrameSchema":
    """The pandera schema that accepts a frame exactly when the decoder accepts each of its rows.

    Columns may have NumPy, nullable or object dtypes; NaN and None are null. An optional column may be absent. Show its
    findings through `frame_violations`: pandera's own messages quote values.
    """
    import pandera.pandas as pa  # noqa: PLC0415 (takes 0.6 s)

    columns = {
        field.name: pa.Column(
            None,
            [pa.Check(field.accepts(), element_wise=True, name=field.type)],
            nullable=not field.required,
            required=field.required,
        )
        for field in fields
    }
    return pa.DataFrameSchema(columns, strict=True, name=stream)


def frame_violations(schema: "pa.DataFrameSchema", frame: "pd.DataFrame") -> list[str]:
    """What breaks the schema, as one sentence per column and rule, without any value; empty when all rows hold."""
    import pandera.errors  # noqa: PLC0415

    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        found = cases.groupby(["column", "check"], dropna=False, sort=True).size()
        return [f"column {column}: {count} rows fail {check}" for (column, check), count in found.items()]
    return []


def explain(error: msgspec.ValidationError, *, personal: bool) -> str:
    """Which rule, at which JSON path, never with a value.

    Args:
        error: What the decoder raised; its text quotes the value of an enum and the name of an unknown field.
        personal: Whether the stream has personal fields; then a name that the contract does not know is not repeated.
    """
    message, _, path = str(error).partition(" - at `")
    place = "$.data" + path.removesuffix("`").removeprefix("$")
    if message.startswith("Invalid enum value"):
        message = "Not one of the values that the contract lists"
    elif message.startswith("Object contains unknown field"):
        name = message.partition("`")[2].removesuffix("`")
        shown = name.isidentifier() and len(name) <= LONGEST_NAME and not personal
        message = f"Unknown field `{name}`" if shown else "A field that the contract does not know"
    return f"{place}: {message}"
