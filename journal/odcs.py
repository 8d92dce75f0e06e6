"""The Open Data Contract Standard 3, as far as intake can enforce it; what it cannot enforce is a mistake."""

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from journal.field import INT64, PYTHON_TYPES, Field
from journal.located import Document, Mistakes

if TYPE_CHECKING:
    from open_data_contract_standard.model import OpenDataContractStandard, SchemaProperty

PERSONAL = "personal"
"""The classification that seals a field."""

CLASSIFICATIONS = (PERSONAL, "public", "internal")
"""What a field may be classified as. Only personal ones are sealed: another word would promise what nothing keeps."""

ENTITY_KEY = "entityKey"
"""The custom property by which a personal field leaves its pseudonym in the body."""

_BOUNDS = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "exclusiveMaximum": "lt"}
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "string": {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"},
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": {},
}
_UNENFORCED = frozenset({"unique", "relationships", "properties", "items", "map"})


def read_model(document: Document, mistakes: Mistakes) -> "OpenDataContractStandard | None":
    """Read a contract by the standard's own model; None, with every mistake noted, when it does not follow it."""
    from open_data_contract_standard.model import OpenDataContractStandard  # noqa: PLC0415 (pydantic)
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        model = OpenDataContractStandard.model_validate(document.value)
    except ValidationError as error:
        for item in error.errors():
            mistakes.add(document.place(*item["loc"]), f"{'.'.join(map(str, item['loc']))}: {item['msg']}")
        return None
    if not (model.apiVersion or "").startswith("v3."):
        mistakes.add(document.place("apiVersion"), "apiVersion is not a version 3 of the standard, such as v3.2.0")
    if model.kind != "DataContract":
        mistakes.add(document.place("kind"), "kind is not DataContract")
    return model


def read_custom(
    document: Document,
    mistakes: Mistakes,
    where: tuple[str | int, ...],
    properties: Sequence[Any],
    known: Sequence[str],
) -> dict[str, Any]:
    """The custom properties at one place by name; unknown and repeated ones are mistakes."""
    values: dict[str, Any] = {}
    for index, custom in enumerate(properties):
        place = document.place(*where, "customProperties", index)
        if custom.property not in known:
            mistakes.add(place, f"custom property {custom.property!r} is not one of {', '.join(known)}")
        elif custom.property in values:
            mistakes.add(place, f"custom property {custom.property!r} stands here twice")
        else:
            values[custom.property] = custom.value
    return values


def read_fields(document: Document, mistakes: Mistakes, properties: "Sequence[SchemaProperty]") -> tuple[Field, ...]:
    """The fields of a contract's one schema object, in the file's order; those with mistakes are left out."""
    fields: dict[str, Field] = {}
    for index, item in enumerate(properties):
        field = _PropertyReader(document, mistakes, index, item).read()
        if field.name in fields:
            mistakes.add(document.place("schema", 0, "properties", index), f"field {field.name!r} is named twice")
        fields[field.name] = field
    return tuple(fields.values())


class _PropertyReader:
    """Reads one property; what is wrong with it is noted with its line."""

    def __init__(self, document: Document, mistakes: Mistakes, index: int, item: "SchemaProperty") -> None:
        self._document = document
        self._mistakes = mistakes
        self._where = ("schema", 0, "properties", index)
        self._item = item

    def read(self) -> Field:
        self._check_keys()
        name = self._name()
        kind = self._item.logicalType or ""
        if kind not in PYTHON_TYPES:
            self._note("logicalType", f"logicalType {kind!r} is not one of {', '.join(PYTHON_TYPES)}")
            return Field(name=name, type=kind)
        personal = self._classification() == PERSONAL
        choices, limits = self._values(kind)
        return Field(
            name=name,
            type=kind,
            required=bool(self._item.required),
            limits=limits,
            choices=choices,
            personal=personal,
            entity_key=self._entity_key(kind, personal=personal),
        )

    def _classification(self) -> str:
        classification = self._item.classification or ""
        if classification and classification not in CLASSIFICATIONS:
            known = ", ".join(CLASSIFICATIONS)
            self._note("classification", f"classification {classification!r} is not one of {known}")
        return classification

    def _values(self, kind: str) -> tuple[tuple[str | int, ...], dict[str, int | float | str]]:
        choices, limits = self._choices(kind), self._limits(kind)
        if not (choices and limits):
            return choices, limits
        within = Field(name="", type=kind, limits=limits).accepts()
        if broken := [number for number, choice in enumerate(choices, 1) if not within(choice)]:
            self._note("enum", f"enum value number {broken[0]} breaks the field's own logicalTypeOptions")
        return choices, {}

    def _note(self, step: str, text: str) -> None:
        self._mistakes.add(self._document.place(*self._where, step), text)

    def _check_keys(self) -> None:
        known = type(self._item).model_fields
        for key in self._document.value["schema"][0]["properties"][self._where[-1]]:
            if key not in known:
                self._note(key, f"{key!r} is not a key of a property in the standard")
            elif key in _UNENFORCED:
                self._note(key, f"{key!r} is not enforced at intake; leave it out" + _INSTEAD.get(key, ""))

    def _name(self) -> str:
        name = self._item.name or ""
        if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name.startswith("_"):
            self._note("name", f"field name {name!r} is not a plain identifier (letters, digits, underscores)")
        return name

    def _entity_key(self, kind: str, *, personal: bool) -> bool:
        custom = self._item.customProperties or []
        value = read_custom(self._document, self._mistakes, self._where, custom, [ENTITY_KEY]).get(ENTITY_KEY, False)
        if not isinstance(value, bool):
            self._note("customProperties", f"{ENTITY_KEY} is not true or false")
        elif value and not personal:
            self._note("customProperties", f"{ENTITY_KEY} is for personal fields; others stay in the body as they are")
        elif value and kind != "string":
            self._note("customProperties", f"a field with {ENTITY_KEY} is a string: its pseudonym is text")
        return value is True

    def _choices(self, kind: str) -> tuple[str | int, ...]:
        values = [item.value for item in self._item.enum or []]
        if values and kind not in {"string", "integer"}:
            self._note("enum", f"enum is for string and integer fields, not for {kind}")
        elif not all(type(value) is PYTHON_TYPES[kind] and _fits(value) for value in values):
            self._note("enum", f"enum holds a value that is not a 64-bit {kind}" if kind == "integer" else _NOT_TEXT)
        elif len(set(values)) < len(values):
            self._note("enum", "enum names a value twice")
        else:
            return tuple(values)
        return ()

    def _limits(self, kind: str) -> dict[str, int | float | str]:
        limits: dict[str, int | float | str] = {}
        for option, value in (self._item.logicalTypeOptions or {}).items():
            if option not in _OPTIONS[kind]:
                self._option(option, f"option {option!r} does not apply to {kind}; {_options_of(kind)}")
            elif fault := _fault(option, value, kind):
                self._option(option, f"option {option!r} {fault}")
            else:
                limits[_OPTIONS[kind][option]] = value
        if {"ge", "gt"} <= limits.keys() or {"le", "lt"} <= limits.keys():
            self._note("logicalTypeOptions", "a bound is either inclusive or exclusive, not both")
            return {}
        if _is_empty(limits, kind):
            self._note("logicalTypeOptions", "no value can meet these bounds: the lower one lies above the upper one")
        return limits

    def _option(self, option: str, text: str) -> None:
        self._mistakes.add(self._document.place(*self._where, "logicalTypeOptions", option), text)


_INSTEAD = {
    "unique": ", or write quality with metric duplicateValues",
    "relationships": ", or write quality with metric reference",
}
_NOT_TEXT = "enum holds a value that is not a string; quote it"


def _fits(value: object) -> bool:
    return not isinstance(value, int) or INT64[0] <= value <= INT64[1]


def _is_finite(value: float) -> bool:
    """Whether a float holds it: an integer may be too large for any."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _options_of(kind: str) -> str:
    return f"it knows {', '.join(_OPTIONS[kind])}" if _OPTIONS[kind] else "it knows none"


def _fault(option: str, value: object, kind: str) -> str:
    """What is wrong with an option's value; empty when nothing is."""
    if option == "pattern":
        return _pattern_fault(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        return "is not a number"
    if option in {"minLength", "maxLength"} and not (isinstance(value, int) and value >= 0 and _fits(value)):
        return "is not a whole number from 0 up"
    if kind == "integer" and not (isinstance(value, int) and _fits(value)):
        return "is not a 64-bit integer"
    return ""


def _pattern_fault(value: object) -> str:
    if not isinstance(value, str):
        return "is not text"
    try:
        re.compile(value)
    except re.error as error:
        return f"is not a regular expression: {error}"
    return ""


def _is_empty(limits: Mapping[str, Any], kind: str) -> bool:
    """Whether nothing lies within: between two bounds that are out themselves, whole numbers need one more."""
    if kind == "integer":
        return bool(
            max(limits.get("ge", INT64[0]), limits.get("gt", INT64[0] - 1) + 1)
            > min(limits.get("le", INT64[1]), limits.get("lt", INT64[1] + 1) - 1)
        )
    low = limits.get("ge", limits.get("gt", limits.get("min_length", -math.inf)))
    high = limits.get("le", limits.get("lt", limits.get("max_length", math.inf)))
    return bool(low > high or (low == high and limits.keys() & {"gt", "lt"}))
