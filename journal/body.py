"""The bodies of the records that Rivermill itself writes: what serving, training and datasets tell each other.

Source bodies follow their contract; these follow the structs below. Rooms that never import each other meet here.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec

from journal.record import Draft, Kind, Record, hand_on

Stamp = tuple[int, int]
"""When a value's event happened and when it became known, both in microseconds."""


class Genesis(msgspec.Struct, frozen=True, kw_only=True):
    """The journal's first record.

    Attributes:
        pipeline: Whose it is.
        clock: What moves its clock: ``events``.
        format: Of the records.
        rules: What the folds were made by, in words: name to canonical text. A journal's rules never change, or its
            state would not follow from it.
    """

    pipeline: str
    clock: str
    format: int
    rules: dict[str, str] = {}


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of later predictions mean.

    Attributes:
        service: The feature service, as ``name@digest``.
        request: Names of the inputs that come from the question itself.
        views: The views in the order of their stamps, as ``name@version``.
        columns: Every feature column in order: the request's, then each view's.
        types: One per column: ``int64``, ``float64``, ``string`` or ``bool``.
    """

    service: str
    request: list[str]
    views: list[str]
    columns: list[str]
    types: list[str] = []


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer with all that it was made from.

    Attributes:
        key: The label's key: the outcome that carries it is this prediction's.
        question: Offset of the question's record: a source event that asks, or a question asked over HTTP.
        service: Names the `Definition` that says what ``values`` and ``stamps`` are.
        values: One value per column; None is missing.
        stamps: One per view; None where the view had no row for the entity, or a stale one.
        score: Probability of the positive class.
        line: The line that answered.
        model: Canonical digest of the model; empty when the prior answered.
        snapshot: Offset of the snapshot or version record that was served; -1 when the prior answered.
        control: Sequence of the control decision that it was served under.
        degraded: Whether a fallback answered, or a feature's store was out of reach.
        build: Fingerprint of the code and libraries that computed the answer.
        now: The journal time that staleness was judged at, in microseconds, where the answer came before its question's
            record, as over HTTP; otherwise None, and `judged_at` tells.
    """

    key: str
    question: int
    service: str
    values: list[Any]
    stamps: list[Stamp | None]
    score: float
    line: str
    model: str
    snapshot: int
    control: int
    degraded: bool
    build: str
    now: int | None = None

    def judged_at(self, question: Record) -> int:
        """When staleness was judged: an event is answered at the least ``at`` that its answer can have."""
        return question.at + 1 if self.now is None else self.now


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction joined with its label: positions, not copies. The features are the prediction's own."""

    key: str
    prediction: int
    label: int
    outcome: bool


class Expired(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a prediction that no label joins. ``reason`` is ``no_label`` or ``not_chosen``."""

    key: str
    prediction: int
    reason: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A state of an online line, with the guard's numbers.

    Attributes:
        line: The line it belongs to.
        family: The flavor that can read the blob.
        model: Canonical digest.
        blob: Content address of the stored state; empty when nothing was published.
        signature: Over line, family, model and blob (hex). Outside every digest.
        examples: How many examples the state has learned.
        published: Whether serving follows it; False when the guard failed.
        guard: The guard's measurements by name.
        reasons: Why the guard failed; empty when it held.
    """

    line: str
    family: str
    model: str
    blob: str
    signature: str
    examples: int
    published: bool
    guard: dict[str, float]
    reasons: list[str]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A batch model that entered the registry. From here on a decision may name its line.

    Attributes:
        line: The version's name, ``<recipe>-<first 12 of the model digest>``: what a decision names.
        family: The flavor that can read the blob.
        model: Canonical digest.
        blob: Content address of the portable model.
        signature: Over line, family, model and blob (hex). Outside every digest.
        service: The feature service whose columns it takes, as ``name@digest``.
        dataset: The dataset version that it was fitted on.
        job: The training job that made it.
        trigger: The journal time that the job was due at, in microseconds.
        recipe: The recipe that won.
        evidence: What was measured about it, by kind; nothing in it was measured by the wall.
    """

    line: str
    family: str
    model: str
    blob: str
    signature: str
    service: str
    dataset: str
    job: str
    trigger: int
    recipe: str
    evidence: dict[str, Any]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The echo of a control decision. It acts where it stands.

    Attributes:
        sequence: Its place in the control log; 0 for a release, which the journal's owner decides by itself.
        action: ``bootstrap``, ``promote``, ``roll_back``, ``reject`` or ``release``.
        subject: What it is about: a line, a quarantine id.
        why: The reason given, with whatever evidence there was.
        details: Facts the action needs.
        heads: Where the control log's ledgers stood, this decision included: (last number, hash) by table. They vouch
            for all that was written before. Outside every digest.
        signature: Over pipeline, sequence, action, subject, why, details and heads (hex). Outside every digest.
    """

    sequence: int
    action: str
    subject: str
    why: str
    details: dict[str, Any]
    heads: dict[str, tuple[int, str]] = {}
    signature: str = ""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """An event that parsed but violates its contract, kept whole until somebody decides.

    Attributes:
        reason: Which rule, which field, what was found.
        event: The event as it came (base64), encrypted under its subject's key where it names one readably, otherwise
            under the pipeline's, since it may hold personal fields.
    """

    reason: str
    event: str


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What a quality rule found in one window of journal time.

    Attributes:
        name: The rule.
        stage: Where it was measured: ``intake``, ``features``, ``join`` or ``dataset``.
        stream: The stream of the records that were measured; ``predictions`` for the features stage.
        field: The field or the view; empty when the rule is about whole records.
        metric: What was measured.
        measured: The share that was found bad, 0 to 1.
        most: The share that the rule allows. A window within it is written down too when the one before was not: it
            lifts what that one stopped.
        begins: When the window begins, in microseconds of ``at``.
        ends: When it ends; records known at or after this are not in it.
        stop: Whether the stage stands still until a later window passes.
        events: How many records were measured.
    """

    name: str
    stage: str
    stream: str
    field: str
    metric: str
    measured: float
    most: float
    begins: int
    ends: int
    stop: bool
    events: int

    @property
    def is_breach(self) -> bool:
        """Whether the window was bad; otherwise it is the first good one again."""
        return self.measured > self.most


BodyT = TypeVar("BodyT", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder(order="deterministic")


def encode(body: msgspec.Struct) -> bytes:
    """The canonical JSON of a body."""
    return _encoder.encode(body)


def decode(body: bytes, kind: type[BodyT]) -> BodyT:
    """Read a body back; raises `msgspec.ValidationError` on a foreign one."""
    decoded: BodyT = _decoder_of(kind)(body)
    return decoded


@cache
def _decoder_of(kind: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(kind).decode


def body_of(record: Record, kind: type[BodyT]) -> BodyT:
    """A record's body, decoded once however many folds look at it."""
    known = record.__dict__.get("decoded")
    if type(known) is kind:
        return known
    body = decode(record.body, kind)
    record.__dict__["decoded"] = body
    return body


def draft_of(body: msgspec.Struct, *, kind: Kind, stream: str, id: str, **envelope: Any) -> Draft:
    """A draft that carries its body decoded, for the folds that see it next."""
    return hand_on(Draft(kind=kind, stream=stream, id=id, body=encode(body), **envelope), decoded=body)
