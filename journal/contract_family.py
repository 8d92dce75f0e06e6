"""The contracts of a pipeline beside each other: earlier versions find their stream, references find their field."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from journal.located import Document, Mistakes

if TYPE_CHECKING:
    from journal.contract import Contract

_EARLIER = re.compile(r"(.+)\.v(\d{1,9})")


class Read(NamedTuple):
    """One contract with the file that it was read from; ``stem`` is the file's name without its suffix."""

    stem: str
    document: Document
    contract: "Contract"

    @property
    def named(self) -> tuple[str, int] | None:
        """The stream and major version that the file's name gives; None where it gives no version.

        A stream's own name may end like a version: then the file holds that stream's current contract.
        """
        match = _EARLIER.fullmatch(self.stem)
        return None if match is None or self.contract.stream == self.stem else (match[1], int(match[2]))


def assemble(found: Sequence[Read], mistakes: Mistakes) -> dict[str, "Contract"]:
    """The current contract of each stream with its earlier versions, newest first; what does not fit is a mistake."""
    current: dict[str, Read] = {}
    for read in found:
        if read.named is None:
            if read.contract.stream in current:
                _note(mistakes, read, f"stream {read.contract.stream!r} has another contract already")
            current[read.contract.stream] = read
    earlier: dict[str, list[Read]] = {stream: [] for stream in current}
    for read in found:
        if read.named is not None and _fits(read, read.named, current, mistakes):
            earlier[read.contract.stream].append(read)
    for stream, reads in earlier.items():
        reads.sort(key=lambda read: -read.contract.major)
        _check_line(current[stream], reads, mistakes)
    _check_references(current, mistakes)
    return {
        stream: dataclasses.replace(read.contract, earlier=tuple(old.contract for old in earlier[stream]))
        for stream, read in current.items()
    }


def _note(mistakes: Mistakes, read: Read, text: str) -> None:
    mistakes.add(read.document.place("schema", 0, "name"), text)


def _fits(read: Read, named: tuple[str, int], current: Mapping[str, Read], mistakes: Mistakes) -> bool:
    contract = read.contract
    if named != (contract.stream, contract.major):
        wrong = f"the file's name says {named[0]!r} version {named[1]}, it holds {contract.stream!r} {contract.version}"
    elif contract.stream not in current:
        wrong = f"stream {contract.stream!r} has no current contract beside this earlier version"
    elif contract.quality:
        wrong = "an earlier version has no quality rules: events are measured by the current contract"
    else:
        return True
    _note(mistakes, read, wrong)
    return False


def _check_line(current: Read, earlier: Sequence[Read], mistakes: Mistakes) -> None:
    """Versions follow each other, and none of them opens what another one seals."""
    newer = current.contract
    for read in earlier:
        older = read.contract
        if older.major != newer.major - 1:
            text = f"major version {older.major} does not come right before {newer.major}, so nothing can lift it"
            mistakes.add(read.document.place("version"), text)
        for text in _unsealed(older, newer):
            _note(mistakes, read, text)
        newer = older


def _unsealed(older: "Contract", newer: "Contract") -> Iterator[str]:
    if older.subject != newer.subject:
        yield f"subject {older.subject!r} is {newer.subject!r} in version {newer.major}: all versions name one person"
    if opened := sorted(older.personal & newer.field_names - newer.personal):
        yield f"{', '.join(opened)}: personal here and not in version {newer.major}, so masks would leave it readable"


def _check_references(current: Mapping[str, Read], mistakes: Mistakes) -> None:
    for read in current.values():
        for rule in read.contract.quality:
            if rule.reference and (wrong := _wrong_reference(read.contract, rule.field, rule.reference, current)):
                _note(mistakes, read, f"quality rule {rule.name!r}: {wrong}")


def _wrong_reference(contract: "Contract", name: str, reference: str, current: Mapping[str, Read]) -> str:
    stream, _, target = reference.rpartition(".")
    if stream not in current:
        return f"reference {reference!r} names no stream here; write STREAM.FIELD"
    other = current[stream].contract
    field = next((field for field in other.fields if field.name == target), None)
    own = next((field for field in contract.fields if field.name == name), None)
    if field is None or own is None:
        return f"stream {stream!r} has no field {target!r}"
    if field.personal:
        return f"{reference} is personal: its values cannot be compared"
    return "" if field.type == own.type else f"{reference} is {field.type}, {name} is {own.type}"
