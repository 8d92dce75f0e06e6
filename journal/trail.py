"""What one subject left behind: records, pseudonyms, and the models that learned from them.

A record names its subject; what is derived from it names its record. So the trail is followed from records to
predictions, from those to examples, and from the first example to whatever was trained on a range that holds it. It is
read from the journal alone and needs no key: it can be followed before an erasure and after.
"""

from collections.abc import Callable, Mapping

import msgspec

from journal.body import Example, Prediction, Snapshot, Version, decode
from journal.contract import Contract
from journal.log import START
from journal.reading import Pages, each
from journal.record import Kind, Record


class Trail(msgspec.Struct, frozen=True, kw_only=True):
    """What leads from a subject.

    Attributes:
        subject: The random id.
        records: Source events and questions about the subject.
        quarantined: Events about it that waited in quarantine.
        predictions: Answers to its questions.
        examples: Examples that hold its features or its outcome.
        first_example: The journal offset of the first of them; -1 for none.
        pseudonyms: What stands for it in bodies and as an entity key, by field.
        datasets: Dataset versions whose range holds an example of it, by name.
        versions: Batch lines that were fitted on such a dataset.
        snapshots: Published states of online lines that have learned from it, counted by line.
    """

    subject: str
    records: int
    quarantined: int
    predictions: int
    examples: int
    first_example: int
    pseudonyms: dict[str, list[str]]
    datasets: list[str]
    versions: list[str]
    snapshots: dict[str, int]


def trail_of(
    journal: Pages,
    subject: str,
    contracts: Mapping[str, Contract],
    datasets: Mapping[str, int] | None = None,
    begins: int = 0,
) -> Trail:
    """Follow a subject through a journal, in one pass.

    Args:
        journal: Where.
        subject: The random id, as records name it.
        contracts: By stream: they say which fields hold pseudonyms.
        datasets: The last journal offset that each dataset version considered, by its name.
        begins: The first offset that can still be read: of what retention let go, nothing can be named.
    """
    walk = _Walk(subject, contracts, datasets or {})
    for record in each(journal, begins - 1):
        walk.follow(record)
    return walk.trail()


class _Walk:
    """What is known of the subject up to a record."""

    def __init__(self, subject: str, contracts: Mapping[str, Contract], datasets: Mapping[str, int]) -> None:
        self._subject, self._contracts, self._ranges = subject, contracts, datasets
        self._own: set[int] = set()
        self._quarantined = 0
        self._predictions: set[int] = set()
        self._examples: list[int] = []
        self._pseudonyms: dict[str, set[str]] = {}
        self._versions: dict[str, str] = {}
        self._snapshots: dict[str, int] = {}
        self._effects: dict[Kind, Callable[[Record], None]] = {
            Kind.SOURCE: self._meet,
            Kind.QUESTION: self._meet,
            Kind.QUARANTINE: self._meet_quarantined,
            Kind.PREDICTION: self._answered,
            Kind.EXAMPLE: self._joined,
            Kind.SNAPSHOT: self._published,
            Kind.VERSION: self._fitted,
        }

    def follow(self, record: Record) -> None:
        """Take one record in."""
        effect = self._effects.get(record.kind)
        if effect is not None and (self._own or record.subject == self._subject):
            effect(record)

    def _meet(self, record: Record) -> None:
        if record.subject != self._subject:
            return
        self._own.add(record.offset)
        for name in self._pseudonymous(record):
            if (value := record.data.get(name)) is not None:
                self._pseudonyms.setdefault(name, set()).add(value)

    def _pseudonymous(self, record: Record) -> frozenset[str]:
        """The fields that hold pseudonyms by the version of the contract that the record follows."""
        contract = self._contracts.get(record.stream)
        versions = () if contract is None else (contract, *contract.earlier)
        followed = (version for version in versions if version.major == record.schema)
        return next((version.pseudonymous & version.personal for version in followed), frozenset())

    def _meet_quarantined(self, record: Record) -> None:
        self._quarantined += record.subject == self._subject

    def _answered(self, record: Record) -> None:
        if decode(record.body, Prediction).question in self._own:
            self._predictions.add(record.offset)

    def _joined(self, record: Record) -> None:
        example = decode(record.body, Example)
        if example.prediction in self._predictions or example.label in self._own:
            self._examples.append(record.offset)

    def _published(self, record: Record) -> None:
        # The snapshot's cause is the last example that it has learned.
        learned = record.offset if record.cause is None else record.cause.offset
        snapshot = decode(record.body, Snapshot)
        if snapshot.published and self._examples and self._examples[0] <= learned:
            self._snapshots[snapshot.line] = self._snapshots.get(snapshot.line, 0) + 1

    def _fitted(self, record: Record) -> None:
        version = decode(record.body, Version)
        # Of a dataset that is gone nobody knows the range: all that was there before is taken to be in it.
        if self._examples and self._examples[0] <= self._ranges.get(version.dataset, record.offset):
            self._versions[version.line] = version.dataset

    def trail(self) -> Trail:
        """What was found."""
        first = self._examples[0] if self._examples else None
        ranges = {name for name, through in self._ranges.items() if first is not None and first <= through}
        return Trail(
            subject=self._subject,
            records=len(self._own),
            quarantined=self._quarantined,
            predictions=len(self._predictions),
            examples=len(self._examples),
            first_example=START if first is None else first,
            pseudonyms={name: sorted(values) for name, values in sorted(self._pseudonyms.items())},
            datasets=sorted(ranges | set(self._versions.values())),
            versions=sorted(self._versions),
            snapshots=self._snapshots,
        )
