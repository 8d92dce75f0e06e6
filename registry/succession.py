"""Who has been champion: a fold over the control log.

Going back forgets whoever came after, so that going back twice leads to the champion before, and never forward again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from journal.control import NAMING, Entry
from registry.lifecycle import Event, State, states_of

NO_VERSION = -1
"""The place of an online line's version record, which it does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """Who has been champion of a pipeline, as its control log tells.

    Attributes:
        pipeline: Whose.
        sequence: The last decision's; 0 when there is none.
        champions: The champion last; before it those that a rollback goes back to, one after the other.
        states: Every line that a decision named, and its state.
        versions: Every line that has been champion, and the offset of its version's record; -1 for an online line.
    """

    pipeline: str
    sequence: int
    champions: tuple[str, ...]
    states: Mapping[str, State]
    versions: Mapping[str, int]

    @property
    def champion(self) -> str:
        """Who answers now; empty before the first decision."""
        return self.champions[-1] if self.champions else ""

    @property
    def previous(self) -> str:
        """Who answered before; empty when nobody did."""
        return self.champions[-2] if len(self.champions) > 1 else ""


def succession_of(pipeline: str, entries: Iterable[Entry]) -> Succession:
    """Read a control log.

    Args:
        pipeline: Whose.
        entries: All its decisions, from the first.

    Raises:
        Refused: The log holds a decision that no state allows.
    """
    entries = list(entries)
    champions: list[str] = []
    versions: dict[str, int] = {}
    for entry in entries:
        if entry.action in NAMING:
            _enthrone(champions, entry)
            versions[entry.subject] = entry.details.get("version", NO_VERSION)
    return Succession(
        pipeline=pipeline,
        sequence=entries[-1].sequence if entries else 0,
        champions=tuple(champions),
        states=states_of(entries),
        versions=versions,
    )


def _enthrone(champions: list[str], entry: Entry) -> None:
    """Going back leaves out whoever came after; whoever is not among them is a new one on top."""
    earlier = [place for place, line in enumerate(champions[:-1]) if line == entry.subject]
    if entry.action == Event.ROLL_BACK and earlier:
        del champions[earlier[-1] + 1 :]
    else:
        champions.append(entry.subject)
