"""What differs between two dataset versions, row by row: a row is its prediction."""

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.dataset_manifest import Manifest

_FACTS = ("pipeline", "service", "incarnation", "first", "through", "as_of", "window", "build", "rows_out", "positives")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs.

    Attributes:
        facts: Facts of the manifests that differ: (of the one, of the other), by name.
        views: Views whose definitions differ or that only one has: the digests, empty for none.
        excluded: Exclusions that differ: the counts, by reason.
        columns: Columns that differ or that only one has: the types, empty for none.
        added: Predictions that only the second has a row of.
        removed: Predictions that only the first has a row of.
        changed: Rows of both that differ in some column that both have.
        changed_by_column: How many rows differ, by column.
    """

    facts: dict[str, tuple[Any, Any]]
    views: dict[str, tuple[str, str]]
    excluded: dict[str, tuple[int, int]]
    columns: dict[str, tuple[str, str]]
    added: int
    removed: int
    changed: int
    changed_by_column: dict[str, int]


def difference(one: Manifest, other: Manifest, rows: pa.Table, others: pa.Table) -> Difference:
    """Compare two versions.

    Args:
        one: The first version's manifest.
        other: The second's.
        rows: The first version's rows.
        others: The second's.
    """
    names = [name for name in rows.column_names if name in others.column_names]
    shared = [name for name in names if rows.schema.field(name).type == others.schema.field(name).type]
    mine, theirs = rows["prediction"].to_numpy(), others["prediction"].to_numpy()
    _, here, there = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    apart = {name: _apart(rows[name].take(here), others[name].take(there)) for name in shared}
    anywhere = np.logical_or.reduce([*apart.values()]) if apart else np.zeros(0, np.bool_)
    counts = {name: int(np.count_nonzero(each)) for name, each in apart.items()}
    return Difference(
        facts={
            name: pair for name in _FACTS for pair in ((getattr(one, name), getattr(other, name)),) if len({*pair}) > 1
        },
        views=_unlike(_digests(one), _digests(other), ""),
        excluded=_unlike(one.excluded, other.excluded, 0),
        columns=_unlike(dict(one.schema), dict(other.schema), ""),
        added=len(theirs) - len(there),
        removed=len(mine) - len(here),
        changed=int(np.count_nonzero(anywhere)),
        changed_by_column={name: count for name, count in counts.items() if count},
    )


def first_difference(expected: pa.Table, found: pa.Table) -> str:
    """Where two tables that should be equal differ first, in words."""
    if expected.schema != found.schema:
        lost = [field.name for field in expected.schema if field not in list(found.schema)]
        return f"the columns differ: {', '.join(lost) or 'there are more'}"
    rows = min(len(expected), len(found))
    places = [
        (int(np.flatnonzero(apart)[0]), name)
        for name in expected.column_names
        if (apart := _apart(expected[name].slice(0, rows), found[name].slice(0, rows))).any()
    ]
    if not places:
        return f"{len(expected)} rows against {len(found)}"
    row, name = min(places, key=lambda place: place[0])
    return (
        f"row {row} (prediction {expected['prediction'][row]}), column {name}: "
        f"{expected[name][row]} against {found[name][row]}"
    )


def _apart(one: Any, other: Any) -> NDArray[np.bool_]:
    """Where two columns of one type differ, to the bit; a missing value equals a missing one alone."""
    if pa.types.is_floating(one.type):
        # So that -0.0 is not 0.0: the hash tells them apart as well.
        one, other = (_bits(column) for column in (one, other))
    unequal = pc.fill_null(pc.not_equal(one, other), False)
    return np.asarray(pc.or_(unequal, pc.xor(pc.is_null(one), pc.is_null(other))), np.bool_)


def _bits(column: Any) -> Any:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.view(pa.int64())


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in _FACTS}


def _digests(manifest: Manifest) -> dict[str, str]:
    return {view: manifest.digests.get(view, "unknown") for view in manifest.views}


def _unlike(one: dict[str, Any], other: dict[str, Any], nothing: Any) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (one.get(name, nothing), other.get(name, nothing)) for name in [*one, *other]}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
