"""The line that answers. It follows the records that may change it, in their order, and nothing else.

- A decision names the line: bootstrap, promote, roll_back. One that we did not sign names nothing.
- Decisions act in their order: one that comes behind a later one is history.
- A published snapshot moves its line, whether or not the line answers now.
- A version is what a decision may name. Its model is loaded when it is first named.
- The line that answered before stays warm: to go back to it is to pick up another object.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from journal.blobs import Blobs
from journal.body import Decision, Snapshot, Version, decode
from journal.control import NAMING, signed_parts
from journal.errors import UnknownName
from journal.log import START
from journal.record import Kind, Record
from registry.flavor import Flavor
from registry.signing import Verifier
from serving.predictor import Predictor

FOLLOWED = frozenset({Kind.SNAPSHOT, Kind.VERSION, Kind.DECISION})
"""The kinds of records that may change what answers."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What answers now: the line, where its snapshot or version stands, and the control sequence that says so."""

    line: str = ""
    snapshot: int = START
    control: int = 0


class ChampionState(msgspec.Struct, frozen=True, kw_only=True):
    """What a champion is restored from.

    Attributes:
        served: What answers.
        previous: The line that answered before; empty when there was none.
        places: Line to the offset of its last published snapshot, or of its version.
    """

    served: Served = Served()
    previous: str = ""
    places: dict[str, int] = {}


class Champion:
    """Holds the models of the line that answers and of the one before."""

    def __init__(
        self,
        *,
        pipeline: str,
        flavor_of: Callable[[str], Flavor],
        blobs: Blobs,
        verifier: Verifier,
        prior: float,
        read_record: Callable[[int], Record],
    ) -> None:
        """Start with nobody named.

        Args:
            pipeline: Whose decisions count.
            flavor_of: A family's flavor by its name.
            blobs: Where models are stored.
            verifier: Checks decisions and models.
            prior: What answers while the line has no model.
            read_record: A record by its offset.
        """
        self._pipeline, self._verifier, self._read_record = pipeline, verifier, read_record
        self.prior = prior
        self.state = ChampionState()
        self._new_predictor: Callable[[], Predictor] = lambda: Predictor(flavor_of, blobs, verifier, prior)
        self._nobody = self._new_predictor()
        self._warm: dict[str, Predictor] = {}
        self._answering = self._nobody

    @property
    def served(self) -> Served:
        """What answers now."""
        return self.state.served

    @property
    def digest(self) -> str:
        """Canonical digest of the model that answers; empty while the prior does."""
        return self._answering.digest

    @property
    def is_ready(self) -> bool:
        """Whether a model answers, and not the prior."""
        return self._answering.is_ready

    def predict_one(self, columns: list[str], values: list[Any]) -> float:
        """Probability of the positive class."""
        return self._answering.predict_one(columns, values)

    def observe(self, record: Record) -> None:
        """Follow one record; those of other kinds change nothing.

        Raises:
            Untrusted, Corrupt: A decision or a model is not what we signed; what answered before still does.
            UnknownName: A decision names a line that the journal does not know.
        """
        match record.kind:
            case Kind.SNAPSHOT:
                snapshot = decode(record.body, Snapshot)
                if snapshot.published:
                    self._move(snapshot.line, record.offset, snapshot)
            case Kind.VERSION:
                version = decode(record.body, Version)
                self._move(version.line, record.offset, version)
            case Kind.DECISION:
                decision = decode(record.body, Decision)
                if decision.action in NAMING:
                    self._obey(decision)

    def restore(self, state: ChampionState) -> None:
        """Answer again as at a checkpoint; on any error, as before.

        Raises:
            Untrusted, Corrupt, UnknownName: A model is not what we signed, or its blob is damaged or lost.
        """
        warm = {line: self._loaded(line, state.places) for line in (state.previous, state.served.line) if line}
        self.state, self._warm = state, warm
        self._answering = self._warm.get(state.served.line, self._nobody)

    def _move(self, line: str, offset: int, published: Snapshot | Version) -> None:
        warm = self._warm.get(line)
        if warm is not None:
            warm.follow(published)
        served = self.served
        if line == served.line:
            served = msgspec.structs.replace(served, snapshot=offset)
        places = {**self.state.places, line: offset}
        self.state = msgspec.structs.replace(self.state, served=served, places=places)

    def _obey(self, decision: Decision) -> None:
        self._verifier.verify(decision.signature, *signed_parts(self._pipeline, decision))
        if decision.sequence <= self.served.control:
            return
        line, before = decision.subject, self.served.line
        if decision.action == "promote" and line not in self.state.places:
            raise UnknownName(which=f"line {line!r}", fix="Its version or first snapshot must come before the decision")
        named = self._warm.get(line) or self._loaded(line, self.state.places)
        served = Served(line=line, snapshot=self.state.places.get(line, START), control=decision.sequence)
        previous = before if before != line else self.state.previous
        self.state = msgspec.structs.replace(self.state, served=served, previous=previous)
        self._warm = {name: self._warm[name] for name in (previous,) if name in self._warm} | {line: named}
        self._answering = named

    def _loaded(self, line: str, places: dict[str, int]) -> Predictor:
        predictor = self._new_predictor()
        place = places.get(line, START)
        if place != START:
            record = self._read_record(place)
            kind: type[Version | Snapshot] = Version if record.kind is Kind.VERSION else Snapshot
            predictor.follow(decode(record.body, kind))
        return predictor
