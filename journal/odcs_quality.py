"""The quality rules of a contract: the standard's own library metrics, and two of ours, ``reference`` and ``late``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from journal.clock import HOUR, parse_span
from journal.located import Document, Mistakes, Steps
from journal.odcs import read_custom
from journal.quality_rule import Metric, QualityRule

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality, SchemaObject

ENGINE = "rivermill"
"""The engine that a rule of type ``custom`` names."""

DEFAULT_WINDOW = HOUR
PERCENT = 100

_LIBRARY: Mapping[str, Metric] = {
    "nullValues": "missing",
    "missingValues": "missing",
    "invalidValues": "invalid",
    "duplicateValues": "unique",
}
_OURS = ("reference", "late")
_INFORMATION = frozenset(
    {"id", "name", "description", "dimension", "businessImpact", "tags", "authoritativeDefinitions"}
)
_KEPT = _INFORMATION | {"type", "metric", "engine", "implementation", "unit", "mustBe", "mustBeLessOrEqualTo"}
_KEYS = _KEPT | {"customProperties"}
_CUSTOM = ("window", "stop")


def read_quality(document: Document, mistakes: Mistakes, schema: "SchemaObject") -> tuple[QualityRule, ...]:
    """The rules of a stream: those of its fields, then those of whole events, in the file's order."""
    rules: dict[str, QualityRule] = {}
    found: list[tuple[Steps, str, list[DataQuality]]] = [
        (("schema", 0, "properties", index, "quality"), item.name or "", item.quality or [])
        for index, item in enumerate(schema.properties or [])
    ]
    found.append((("schema", 0, "quality"), "", schema.quality or []))
    for where, field, items in found:
        for number, item in enumerate(items):
            steps = (*where, number)
            rule = _RuleReader(document, mistakes, steps, item).read(schema.name or "", field)
            if rule is not None and rule.name in rules:
                mistakes.add(document.place(*steps), f"quality rule {rule.name!r} is named twice; give each a name")
            if rule is not None:
                rules[rule.name] = rule
    return tuple(rules.values())


class _RuleReader:
    """Reads one rule; what nothing measures is a mistake."""

    def __init__(self, document: Document, mistakes: Mistakes, steps: Steps, item: "DataQuality") -> None:
        self._document, self._mistakes, self._steps, self._item = document, mistakes, steps, item
        self._custom = read_custom(document, mistakes, steps, item.customProperties or [], _CUSTOM)

    def read(self, stream: str, field: str) -> QualityRule | None:
        self._check_keys()
        metric, reference = self._metric()
        if metric is None:
            return None
        if (metric == "late") != (field == ""):
            self._note("implementation" if metric in _OURS else "metric", _misplaced(metric))
            return None
        return QualityRule(
            name=self._item.name or ".".join(filter(None, (stream, field, metric))),
            field=field,
            metric=metric,
            most=self._most(),
            window=self._window(),
            stop=self._stop(),
            reference=reference,
        )

    def _note(self, step: str, text: str) -> None:
        self._mistakes.add(self._document.place(*self._steps, step), text)

    def _check_keys(self) -> None:
        value: Any = self._document.value
        for step in self._steps:
            value = value[step]
        for key in value:
            if key not in _KEYS:
                self._note(key, f"{key!r} of a quality rule is not measured; leave it out")

    def _metric(self) -> tuple[Metric | None, str]:
        """What the rule measures, and for a reference the field that it points to."""
        kind = self._item.type or "library"
        if kind == "custom":
            return self._ours()
        if kind != "library" or (self._item.metric or "") not in _LIBRARY:
            known = f"{', '.join(_LIBRARY)}; or type custom, engine {ENGINE}: {', '.join(_OURS)}"
            self._note("metric", f"quality rule {self._item.metric or kind!r} is not measured; there are {known}")
            return None, ""
        return _LIBRARY[self._item.metric or ""], ""

    def _ours(self) -> tuple[Metric | None, str]:
        given = self._item.implementation
        metric = given.get("metric") if isinstance(given, dict) else None
        if self._item.engine != ENGINE or not isinstance(given, dict) or metric not in _OURS:
            self._note("implementation", f"a custom rule is engine {ENGINE} with metric {' or '.join(_OURS)}")
            return None, ""
        reference = given.get("to", "")
        if given.keys() - {"metric", "to"} or (metric == "reference") != bool(reference):
            self._note("implementation", "reference takes 'to', a STREAM.FIELD, and late takes nothing")
        return cast("Metric", metric), str(reference)

    def _most(self) -> float:
        """The share that may be bad, 0 to 1."""
        exact, most, unit = self._item.mustBe, self._item.mustBeLessOrEqualTo, self._item.unit or "rows"
        if exact is not None and most is None and type(exact) is int and exact == 0:
            return 0.0
        if exact is not None or most is None:
            self._note("mustBe", "a quality rule says mustBeLessOrEqualTo with unit percent, or mustBe 0")
        elif unit != "percent" and most != 0:
            self._note("unit", "unit is not percent: what is measured is a share of a window's events")
        elif not 0 <= most <= PERCENT:
            self._note("mustBeLessOrEqualTo", f"{most} is not a percentage from 0 to 100")
        else:
            return float(most / PERCENT)
        return 0.0

    def _window(self) -> int:
        if "window" not in self._custom:
            return DEFAULT_WINDOW
        try:
            window = parse_span(str(self._custom["window"]))
        except ValueError as error:
            self._note("customProperties", f"window: {error}")
            return DEFAULT_WINDOW
        if window == 0:
            self._note("customProperties", "window is 0: nothing would ever be in it")
        return window or DEFAULT_WINDOW

    def _stop(self) -> bool:
        stop = self._custom.get("stop", False)
        if not isinstance(stop, bool):
            self._note("customProperties", "stop is not true or false")
        return stop is True


def _misplaced(metric: Metric) -> str:
    if metric == "late":
        return "late is about whole events: write it under the stream's quality, not under a field's"
    return f"{metric} is about one field: write it under that field's quality"
