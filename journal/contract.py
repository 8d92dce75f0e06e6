"""What a producer promised about one stream: its fields, its windows of time, its privacy.

A contract is an Open Data Contract Standard 3 file, ``NAME.odcs.yaml``, with one schema object: the stream. Its custom
properties are ``dedupWindow``, ``maxGap``, ``lateness`` (spans such as ``36h``), ``maxBytes``, ``mode`` and
``subject``: the field that identifies the person whom its personal fields are about. The contract of an earlier major
version stands beside it as ``NAME.v1.odcs.yaml``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import msgspec

from journal.clock import format_span, parse_span
from journal.contract_family import Read, assemble
from journal.decoder import decoder_of, frame_schema_of
from journal.field import Field
from journal.located import Document, Mistakes, read_document
from journal.odcs import read_custom, read_fields, read_model
from journal.odcs_promises import read_promises
from journal.odcs_quality import read_quality
from journal.quality_rule import QualityRule as QualityRule  # noqa: PLC0414 (part of a contract)

if TYPE_CHECKING:
    import pandera.pandas as pa
    from open_data_contract_standard.model import OpenDataContractStandard

DEFAULT_MAX_BYTES = 1 << 20
"""The largest event, where the contract does not say."""

LARGEST_MAX_BYTES = 10 * 1024 * 1024
"""What one request over HTTP carries."""

SUFFIX = ".odcs.yaml"

_STREAM = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_VERSION = re.compile(r"(\d{1,9})\.\d{1,9}\.\d{1,9}")
_CUSTOM = ("dedupWindow", "maxGap", "lateness", "maxBytes", "subject", "mode")

Mode = Literal["freeze", "evolve", "discard_row", "discard_value"]
"""What becomes of an event that says something else than its contract: see docs/contracts.md."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A stream's contract.

    Attributes:
        stream: The CloudEvents type of its events.
        version: Three numbers; a change that breaks readers raises the first.
        fields: The fields of the data, in the file's order.
        dedup_window: How long ids are remembered, in microseconds of journal time. Older events are quarantined.
        lateness: How late an event may come and still count, in microseconds; at most the dedup window.
        max_gap: How far one event may move the clock, in microseconds.
        max_bytes: The largest event, envelope included.
        subject: The field that identifies the person; empty when no field is personal.
        owner: Who answers for the stream.
        description: What it says, for people.
        mode: What becomes of an event that says something else than this.
        retention: How long its records are kept, in microseconds of journal time; None for as long as there is room.
        rpo: How much may be lost at most in a disaster, in microseconds; None where nothing was promised.
        rto: How long a restore may take, in microseconds; None where nothing was promised.
        timeliness: How far an event's ``time`` may trail the journal's clock before it counts as late, in microseconds.
        quality: The rules that its events keep together.
        earlier: The contracts of the major versions before, the newest first. Events of the first one are still taken
            in; records of all of them are still read.
    """

    stream: str
    version: str
    fields: tuple[Field, ...]
    dedup_window: int
    max_gap: int
    lateness: int = 0
    max_bytes: int = DEFAULT_MAX_BYTES
    subject: str = ""
    owner: str = ""
    description: str = ""
    mode: Mode = "freeze"
    retention: int | None = None
    rpo: int | None = None
    rto: int | None = None
    timeliness: int | None = None
    quality: tuple[QualityRule, ...] = ()
    earlier: "tuple[Contract, ...]" = ()

    @property
    def major(self) -> int:
        """The version that records carry: bodies of one major version read alike."""
        return int(self.version.partition(".")[0])

    @property
    def field_names(self) -> frozenset[str]:
        """Names of all fields."""
        return frozenset(field.name for field in self.fields)

    @property
    def personal(self) -> frozenset[str]:
        """Names of the personal fields."""
        return frozenset(field.name for field in self.fields if field.personal)

    @property
    def pseudonymous(self) -> frozenset[str]:
        """Names of the personal fields that leave a pseudonym in the body: entity keys and the subject."""
        return frozenset(field.name for field in self.fields if field.entity_key or field.name == self.subject)

    @property
    def current(self) -> "Contract":
        """The same without its earlier versions: what a question over HTTP is held to, since nothing lifts it."""
        return replace(self, earlier=())

    def decoder(self) -> msgspec.json.Decoder[msgspec.Struct]:
        """Compile the decoder of one event's data. Put its errors in words by `journal.decoder.explain`."""
        return decoder_of(self.stream, self.fields)

    def frame_schema(self) -> "pa.DataFrameSchema":
        """The same rules over a frame of many events' data."""
        return frame_schema_of(self.stream, self.fields)


def load_contracts(folder: Path) -> dict[str, Contract]:
    """Read every contract of a folder, by stream.

    Raises:
        Misconfigured: With all the mistakes of all files, each with its file and line.
    """
    mistakes = Mistakes()
    paths = sorted(folder.glob("*.y*ml")) if folder.is_dir() else []
    if not paths:
        mistakes.add(folder.name, f"no contract here; write one as STREAM{SUFFIX}")
    found = [read for path in paths if (read := _load(path, mistakes)) is not None]
    contracts = assemble(found, mistakes)
    mistakes.raise_all(f"the contracts of {folder.name}/", "Mend the lines named, then try again")
    return contracts


def _load(path: Path, mistakes: Mistakes) -> Read | None:
    if not path.name.endswith(SUFFIX):
        mistakes.add(path.name, f"not read as a contract; name it {path.name.partition('.')[0]}{SUFFIX}")
        return None
    document = read_document(path, mistakes)
    model = read_model(document, mistakes) if document else None
    if document is None or model is None:
        return None
    contract = _Reader(document, mistakes, model).read()
    return None if contract is None else Read(path.name.removesuffix(SUFFIX), document, contract)


class _Reader:
    """Reads one contract whose form the standard accepts, and holds it to intake's own rules."""

    def __init__(self, document: Document, mistakes: Mistakes, model: "OpenDataContractStandard") -> None:
        self._document = document
        self._mistakes = mistakes
        self._model = model
        self._custom = read_custom(document, mistakes, (), model.customProperties or [], _CUSTOM)

    def read(self) -> Contract | None:
        if len(self._model.schema_ or []) != 1:
            self._note("a contract has exactly one schema object: its stream", "schema")
            return None
        promises = read_promises(self._document, self._mistakes, self._model)
        contract = Contract(
            stream=self._stream(),
            version=self._version(),
            fields=self._fields(),
            dedup_window=self._span("dedupWindow", above_zero=True),
            lateness=self._span("lateness", "0s"),
            max_gap=self._span("maxGap", above_zero=True),
            max_bytes=self._max_bytes(),
            subject=str(self._custom.get("subject", "")),
            mode=self._mode(),
            quality=read_quality(self._document, self._mistakes, self._schema),
            **vars(promises),
        )
        self._check_windows(contract)
        self._check_privacy(contract)
        self._check_quality(contract)
        return contract

    def _note(self, text: str, *steps: str | int) -> None:
        self._mistakes.add(self._document.place(*steps), text)

    def _note_custom(self, name: str, text: str) -> None:
        listed = self._model.customProperties or []
        index = next((index for index, item in enumerate(listed) if item.property == name), None)
        self._note(text, "customProperties", *(() if index is None else (index, "value")))

    def _stream(self) -> str:
        known = {field.alias or name for name, field in type(self._schema).model_fields.items()}
        for key in self._document.value["schema"][0]:
            if key not in known:
                self._note(f"{key!r} is not a key of a schema object in the standard", "schema", 0, key)
        stream = self._schema.name or ""
        if not _STREAM.fullmatch(stream):
            self._note(f"stream name {stream!r} is not letters, digits, '_', '.' and '-'", "schema", 0, "name")
        return stream

    @property
    def _schema(self) -> Any:
        return (self._model.schema_ or [])[0]

    def _version(self) -> str:
        version = self._model.version or ""
        if not _VERSION.fullmatch(version):
            self._note(f"version {version!r} is not three numbers, such as 1.0.0", "version")
            return "0.0.0"
        return version

    def _fields(self) -> tuple[Field, ...]:
        properties = self._schema.properties or []
        if not properties:
            self._note("the stream has no properties", "schema", 0)
        return read_fields(self._document, self._mistakes, properties)

    def _span(self, name: str, default: str | None = None, *, above_zero: bool = False) -> int:
        value = self._custom.get(name, default)
        if value is None:
            self._note_custom(name, f"custom property {name!r} is missing; write a span such as 14d")
            return 0
        span = self._parsed(name, lambda: parse_span(str(value)))
        if above_zero and span == 0 and str(value).startswith("0"):
            self._note_custom(name, f"{name}: {value!r} is no span above 0")
        return span

    def _parsed(self, name: str, parse: Callable[[], int]) -> int:
        try:
            return parse()
        except ValueError as error:
            self._note_custom(name, f"{name}: {error}")
            return 0

    def _max_bytes(self) -> int:
        value = self._custom.get("maxBytes", DEFAULT_MAX_BYTES)
        if type(value) is not int or not 0 < value <= LARGEST_MAX_BYTES:
            which = f"maxBytes: {value!r} is not a whole number of bytes above 0, up to {LARGEST_MAX_BYTES}"
            self._note_custom("maxBytes", which)
            return DEFAULT_MAX_BYTES
        return value

    def _mode(self) -> Mode:
        mode = self._custom.get("mode", "freeze")
        if mode not in get_args(Mode):
            self._note_custom("mode", f"mode {mode!r} is not one of {', '.join(get_args(Mode))}")
            return "freeze"
        return cast("Mode", mode)

    def _check_windows(self, contract: Contract) -> None:
        if contract.dedup_window < contract.lateness:
            window, lateness = format_span(contract.dedup_window), format_span(contract.lateness)
            self._note_custom("dedupWindow", f"dedupWindow {window} is shorter than lateness {lateness}")
        # Lateness lies within the dedup window, so records that may still be corrected are kept as well.
        if contract.retention is not None and contract.retention < contract.dedup_window:
            kept, window = format_span(contract.retention), format_span(contract.dedup_window)
            self._note(f"retention {kept} is shorter than dedupWindow {window}: ids go with records", "slaProperties")
        if contract.timeliness is not None and contract.timeliness > contract.dedup_window:
            late, window = format_span(contract.timeliness), format_span(contract.dedup_window)
            self._note(f"latency {late} is above dedupWindow {window}: later events are quarantined", "slaProperties")

    def _check_privacy(self, contract: Contract) -> None:
        if not contract.subject:
            if contract.personal:
                names = ", ".join(sorted(contract.personal))
                self._note(
                    f"{names}: personal, so the custom property 'subject' must name who it is about", "schema", 0
                )
            return
        field = next((field for field in contract.fields if field.name == contract.subject), None)
        if field is None:
            self._note_custom("subject", f"subject {contract.subject!r} is not a field of the stream")
        elif not (field.personal and field.required and field.type == "string"):
            self._note_custom("subject", f"subject {field.name!r} is not a required personal string")

    def _check_quality(self, contract: Contract) -> None:
        sealed = contract.personal - contract.pseudonymous
        required = {field.name for field in contract.fields if field.required}
        for rule in contract.quality:
            if rule.metric == "missing" and rule.field in required and rule.most > 0:
                wrong = "the field is required, so no share of it may be missing"
            elif rule.metric in {"missing", "unique"} and rule.field in sealed:
                wrong = "the field is sealed at intake, so nothing can measure it"
            elif rule.metric == "reference" and rule.field in contract.personal:
                wrong = "the field is personal: its values cannot be compared"
            elif rule.metric == "late" and contract.timeliness is None:
                wrong = "nothing is late without slaProperties that say latency"
            else:
                continue
            self._note(f"quality rule {rule.name!r}: {wrong}", *self._place_of(rule.field))

    def _place_of(self, field: str) -> tuple[str | int, ...]:
        names = [item.name for item in self._schema.properties or []]
        where = ("properties", names.index(field)) if field else ()
        return ("schema", 0, *where, "quality")
