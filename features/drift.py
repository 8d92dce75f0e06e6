"""Drift: how far the features of recent traffic have moved from those of a reference, feature by feature.

The measures:

- **PSI**, the population stability index: the sum over bins of (recent - reference) * ln(recent / reference), shares of
  all values that are not missing. A bin counts half a value more than it holds, so that an empty one has a logarithm.
- A number's bins end at the reference's deciles, or at each of its values where it has at most `MOST_VALUES`. A string
  or a boolean has a bin for each of the reference's `MOST_VALUES` most frequent values and one for all others.
- **KS**, of numbers: the largest distance between the two distribution functions, with the asymptotic p-value of
  Kolmogorov and Smirnov for two samples (``scipy.stats.ks_2samp``; conservative where values repeat). A distance counts
  only with a p-value below `SURE`: chance alone moves small samples far.
- **Missing**: by how much the share of missing values has changed, up or down.

A measure above its limit makes the feature ``drifted``; one above half of it, ``warn``. `Limits.least` drifted features
make the verdict.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from journal.errors import UnknownName

Verdict = Literal["ok", "warn", "drifted", "too few"]

MOST_VALUES = 20
"""Bins. Without any drift PSI is about bins * (1 / recent + 1 / reference): 0.05 for 20 bins and 500 rows."""
LEAST_VALUES = 200
"""Values that are not missing; with fewer on either side only the missing ones are compared."""
SURE = 0.001
"""A p-value under which a distance between distributions is no chance."""
_WARN_AT = 0.5
_DECILES = np.arange(1, 10) / 10


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature may do without being called drifted.

    Attributes:
        psi: The largest PSI; 0.1 and 0.2 are the usual "moved" and "moved much".
        ks: The largest distance between distribution functions, 0 to 1.
        missing: The largest change of the share of missing values, 0 to 1.
        minimum: With fewer rows on either side nothing is said.
        features: Which columns are looked at; empty for all.
        least: How many of them must have drifted for the verdict ``drifted``.
    """

    psi: float = 0.2
    ks: float = 0.15
    missing: float = 0.1
    minimum: int = 500
    features: tuple[str, ...] = ()
    least: int = 1


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One feature.

    Attributes:
        feature: The column.
        verdict: Of this feature alone.
        why: The measures that made it, in words; empty where all is well.
        psi: Population stability index; None where either side has too few values.
        ks: Distance between distribution functions; None also for strings and booleans.
        p_value: Of that distance.
        missing: Share of recent values that are missing.
        missing_reference: The same of the reference.
        new: Share of recent values that the reference does not hold (strings and booleans; otherwise 0).
    """

    feature: str
    verdict: Verdict
    why: tuple[str, ...]
    psi: float | None
    ks: float | None
    p_value: float | None
    missing: float
    missing_reference: float
    new: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """All features that were looked at.

    Attributes:
        verdict: ``too few`` where there were too few rows to say anything.
        recent: Rows of recent traffic.
        reference: Rows of the reference.
        drifted: The features that drifted, the furthest first.
        features: Every feature, in the reference's order.
    """

    verdict: Verdict
    recent: int
    reference: int
    drifted: tuple[str, ...]
    features: tuple[FeatureDrift, ...]

    @property
    def reason(self) -> str:
        """The verdict in a sentence."""
        worst = {feature.feature: feature for feature in self.features}
        told = [f"{name} ({', '.join(worst[name].why)})" for name in self.drifted[:3]]
        more = len(self.drifted) - len(told)
        return f"{', '.join(told)}{f' and {more} more' if more > 0 else ''} drifted" if told else "nothing drifted"


class Columns(Protocol):
    """Columns that are read one at a time: a wide dataset need not be in memory whole."""

    @property
    def rows(self) -> int:
        """How many values each column has."""
        ...

    @property
    def types(self) -> Mapping[str, str]:
        """Name to one of `features.rows.TYPES`, in order."""
        ...

    def read(self, name: str) -> pa.ChunkedArray:
        """A column."""
        ...


def compare(reference: Columns, recent: Columns, limits: Limits) -> Drift:
    """Compare the columns that both sides have; equal inputs give equal results, to the last bit.

    Raises:
        UnknownName: A feature that the limits name is in none of them.
    """
    shared = [name for name, kind in reference.types.items() if recent.types.get(name) == kind]
    unknown = sorted(set(limits.features).difference(shared))
    if unknown:
        raise UnknownName(
            which=f"feature {', '.join(unknown)}; there are: {', '.join(shared)}", fix="Name columns that both have"
        )
    chosen = [name for name in shared if name in limits.features or not limits.features]
    if min(reference.rows, recent.rows) < limits.minimum:
        return Drift(verdict="too few", recent=recent.rows, reference=reference.rows, drifted=(), features=())
    found = tuple(compare_one(name, reference.read(name), recent.read(name), limits) for name in chosen)
    drifted = sorted((each for each in found if each.verdict == "drifted"), key=lambda each: -(each.psi or 0.0))
    return Drift(
        verdict=_verdict([each.verdict for each in found], limits),
        recent=recent.rows,
        reference=reference.rows,
        drifted=tuple(each.feature for each in drifted),
        features=found,
    )


def compare_one(name: str, reference: pa.ChunkedArray, recent: pa.ChunkedArray, limits: Limits) -> FeatureDrift:
    """Compare one column."""
    missing_reference, missing = (column.null_count / len(column) for column in (reference, recent))
    is_number = pa.types.is_integer(reference.type) or pa.types.is_floating(reference.type)
    before, now = reference.drop_null(), recent.drop_null()
    psi = ks = p_value = None
    new = 0.0
    if min(len(before), len(now)) >= max(2, min(limits.minimum, LEAST_VALUES)):
        if is_number:
            numbers = [column.cast(pa.float64(), safe=False).to_numpy() for column in (before, now)]
            ks, p_value = _distance(*numbers)
            psi = _psi(*_number_bins(*numbers))
        else:
            counts = [_counts(column) for column in (before, now)]
            new = sum(count for value, count in counts[1].items() if value not in counts[0]) / len(now)
            psi = _psi(*_value_bins(*counts))
    is_sure = p_value is not None and p_value < SURE
    measured = {
        "psi": (psi or 0.0, limits.psi),
        "ks": (ks if ks is not None and is_sure else 0.0, limits.ks),
        "missing": (abs(missing - missing_reference), limits.missing),
    }
    return FeatureDrift(
        feature=name,
        verdict="drifted" if any(_above(measured, 1.0)) else "warn" if any(_above(measured, _WARN_AT)) else "ok",
        why=tuple(_above(measured, 1.0)) or tuple(_above(measured, _WARN_AT)),
        psi=psi,
        ks=ks,
        p_value=p_value,
        missing=missing,
        missing_reference=missing_reference,
        new=new,
    )


def _above(measured: Mapping[str, tuple[float, float]], part: float) -> Iterator[str]:
    return (f"{name} {value:.3g}" for name, (value, limit) in measured.items() if value > part * limit)


def _verdict(verdicts: Sequence[Verdict], limits: Limits) -> Verdict:
    if verdicts.count("drifted") >= limits.least:
        return "drifted"
    return "warn" if {"drifted", "warn"}.intersection(verdicts) else "ok"


def _number_bins(reference: NDArray[np.float64], recent: NDArray[np.float64]) -> Iterable[NDArray[np.int64]]:
    """Values per bin on either side; a value on an edge belongs below it."""
    values = np.unique(reference)
    edges = np.unique(np.quantile(reference, _DECILES, method="inverted_cdf"))
    edges = values[:-1] if len(values) <= MOST_VALUES else edges
    return (np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (reference, recent))


def _value_bins(reference: Counter[Any], recent: Counter[Any]) -> Iterable[NDArray[np.int64]]:
    kept = [value for value, _ in sorted(reference.items(), key=lambda item: (-item[1], str(item[0])))[:MOST_VALUES]]
    return (
        np.array([*(side[value] for value in kept), side.total() - sum(side[value] for value in kept)], np.int64)
        for side in (reference, recent)
    )


def _psi(reference: NDArray[np.int64], recent: NDArray[np.int64]) -> float:
    before, now = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (reference, recent))
    return float(np.sum((now - before) * np.log(now / before)))


def _distance(reference: NDArray[np.float64], recent: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.stats import ks_2samp  # type: ignore[import-untyped]  # noqa: PLC0415 - only a comparison pays for it

    found = ks_2samp(reference, recent, method="asymp")
    return float(found.statistic), float(found.pvalue)


def _counts(column: pa.ChunkedArray) -> Counter[Any]:
    counted = pc.value_counts(column).to_pylist()
    return Counter({each["values"]: each["counts"] for each in counted})
