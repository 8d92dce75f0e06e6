"""What a contract promises beside its fields: who answers for it, how long it is kept, how late it may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from journal.clock import DAY, HOUR, MINUTE, SECOND, parse_span
from journal.located import Document, Mistakes

if TYPE_CHECKING:
    from open_data_contract_standard.model import OpenDataContractStandard, ServiceLevelAgreementProperty

_OBJECTIVES = {"retention": "retention", "latency": "timeliness", "rpo": "rpo", "rto": "rto"}
_KEYS = frozenset({"id", "property", "value", "unit", "driver", "description"})
_UNITS: Mapping[str, int] = {
    spelling: micros
    for micros, spellings in (
        (SECOND, "s second seconds"),
        (MINUTE, "m min minute minutes"),
        (HOUR, "h hour hours"),
        (DAY, "d day days"),
        (7 * DAY, "w week weeks"),
        (365 * DAY, "y yr year years"),
    )
    for spelling in spellings.split()
}


@dataclass(frozen=True, kw_only=True)
class Promises:
    """See the attributes of `journal.contract.Contract`; spans are in microseconds, None where nothing was said."""

    owner: str = ""
    description: str = ""
    retention: int | None = None
    timeliness: int | None = None
    rpo: int | None = None
    rto: int | None = None


def read_promises(document: Document, mistakes: Mistakes, model: "OpenDataContractStandard") -> Promises:
    """Read ``team``, ``description`` and ``slaProperties``; what cannot be kept is a mistake."""
    spans: dict[str, int] = {}
    for index, item in enumerate(model.slaProperties or []):
        reader = _ObjectiveReader(document, mistakes, index, item)
        name = _OBJECTIVES.get(item.property or "", "")
        if not name:
            reader.note("property", f"{item.property!r} is not one of {', '.join(_OBJECTIVES)}: nothing would keep it")
        elif name in spans:
            reader.note("property", f"{item.property!r} stands here twice")
        else:
            spans[name] = reader.read()
    description = (model.description.purpose if model.description else None) or ""
    return Promises(owner=_owner(document, mistakes, model), description=description, **spans)


def _owner(document: Document, mistakes: Mistakes, model: "OpenDataContractStandard") -> str:
    """The team's name, or the username of its member whose role is owner."""
    if model.team is None:
        return ""
    name = "" if isinstance(model.team, list) else model.team.name
    members = model.team if isinstance(model.team, list) else model.team.members or []
    owners = [member.username for member in members if (member.role or "").lower() == "owner" and member.username]
    if name or owners:
        return name or str(owners[0])
    mistakes.add(
        document.place("team"), "team says no owner: give it a name, or a member with a username and role owner"
    )
    return ""


class _ObjectiveReader:
    """Reads one entry of ``slaProperties``."""

    def __init__(
        self, document: Document, mistakes: Mistakes, index: int, item: "ServiceLevelAgreementProperty"
    ) -> None:
        self._document, self._mistakes, self._item = document, mistakes, item
        self._where = ("slaProperties", index)

    def note(self, step: str, text: str) -> None:
        self._mistakes.add(self._document.place(*self._where, step), text)

    def read(self) -> int:
        """The span in microseconds; 0, with the mistake noted, when it is none."""
        for key in self._document.value["slaProperties"][self._where[1]]:
            if key not in _KEYS:
                self.note(key, f"{key!r} of an objective is not kept; leave it out")
        try:
            span = _span(self._item.value, self._item.unit)
        except ValueError as error:
            self.note("value", f"{self._item.property}: {error}")
            return 0
        if span == 0 and self._item.property != "rpo":
            self.note("value", f"{self._item.property} is 0, which nothing can meet")
        return span


def _span(value: Any, unit: str | None) -> int:
    if unit is None:
        return parse_span(str(value))
    if unit not in _UNITS:
        message = f"unit {unit!r} is not one of {', '.join(_UNITS)}"
        raise ValueError(message)
    if type(value) is not int or value < 0:
        message = f"{value!r} is not a whole number from 0 up"
        raise ValueError(message)
    return value * _UNITS[unit]
