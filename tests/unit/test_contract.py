"""Contracts: what the file says becomes rules; what it says wrongly is reported all at once, by file and line."""

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from journal.clock import DAY, HOUR
from journal.contract import DEFAULT_MAX_BYTES, Contract, load_contracts
from journal.decoder import (
    MATCHED_LATELY,
    MOST_REMEMBERED,
    QuickDecoder,
    decoder_of,
    explain,
    frame_schema_of,
    frame_violations,
)
from journal.errors import Misconfigured
from journal.field import Field

HEAD = """\
apiVersion: v3.1.0
kind: DataContract
id: departures
version: 2.1.0
status: active
"""

WINDOWS = """\
customProperties:
  - {property: dedupWindow, value: 14d}
  - {property: maxGap, value: 7d}
  - {property: lateness, value: 36h}
"""

GOOD = (
    HEAD
    + """\
schema:
  - name: departures
    properties:
      - name: origin
        logicalType: string
        required: true
        enum: [{value: EWR}, {value: JFK}, {value: LGA}]
      - name: flight
        logicalType: integer
        required: true
        logicalTypeOptions: {minimum: 1, exclusiveMaximum: 10000}
      - name: delay
        logicalType: number
        logicalTypeOptions: {minimum: -1440}
      - name: tailnum
        logicalType: string
        logicalTypeOptions: {minLength: 5, maxLength: 6, pattern: "^[A-Z0-9]+$"}
      - name: cancelled
        logicalType: boolean
"""
    + WINDOWS
)


def write(folder: Path, text: str, name: str = "departures.odcs.yaml") -> Path:
    (folder / name).write_text(text)
    return folder


def mistakes(folder: Path) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load_contracts(folder)
    return [line.strip() for line in caught.value.which.splitlines()[1:]]


@pytest.fixture
def departures(tmp_path: Path) -> Contract:
    return load_contracts(write(tmp_path, GOOD))["departures"]


def test_file_becomes_a_contract(departures: Contract) -> None:
    assert departures.major == 2
    assert (departures.dedup_window, departures.max_gap, departures.lateness) == (14 * DAY, 7 * DAY, 36 * HOUR)
    assert departures.max_bytes == DEFAULT_MAX_BYTES
    assert departures.field_names == {"origin", "flight", "delay", "tailnum", "cancelled"}
    assert departures.fields[1] == Field(name="flight", type="integer", required=True, limits={"ge": 1, "lt": 10000})
    assert departures.fields[0].choices == ("EWR", "JFK", "LGA")
    assert not departures.personal


ROWS: list[tuple[str, str]] = [
    ('{"origin":"EWR","flight":1}', ""),
    ('{"origin":"EWR","flight":1,"delay":2,"tailnum":"N12345","cancelled":true}', ""),
    ('{"origin":"EWR","flight":9999,"delay":null,"tailnum":null,"cancelled":null}', ""),
    ('{"flight":1}', "$.data: Object missing required field `origin`"),
    ('{"origin":null,"flight":1}', "$.data.origin: Expected `str`, got `null`"),
    ('{"origin":"BOS","flight":1}', "$.data.origin: Not one of the values that the contract lists"),
    ('{"origin":"EWR","flight":1.0}', "$.data.flight: Expected `int`, got `float`"),
    ('{"origin":"EWR","flight":true}', "$.data.flight: Expected `int`, got `bool`"),
    ('{"origin":"EWR","flight":"1"}', "$.data.flight: Expected `int`, got `str`"),
    ('{"origin":"EWR","flight":0}', "$.data.flight: Expected `int` >= 1"),
    ('{"origin":"EWR","flight":10000}', "$.data.flight: Expected `int` <= 9999"),
    ('{"origin":"EWR","flight":1,"delay":-1441}', "$.data.delay: Expected `float` >= -1440.0"),
    ('{"origin":"EWR","flight":1,"delay":1e999}', "$.data.delay: Number out of range"),
    ('{"origin":"EWR","flight":1,"tailnum":"N1"}', "$.data.tailnum: Expected `str` of length >= 5"),
    ('{"origin":"EWR","flight":1,"tailnum":"N123456"}', "$.data.tailnum: Expected `str` of length <= 6"),
    ('{"origin":"EWR","flight":1,"tailnum":"n1234"}', "$.data.tailnum: Expected `str` matching regex '^[A-Z0-9]+$'"),
    ('{"origin":"EWR","flight":1,"cancelled":1}', "$.data.cancelled: Expected `bool | null`, got `int`"),
    ('{"origin":"EWR","flight":1,"gate":"A1"}', "$.data: Unknown field `gate`"),
    ('{"origin":"EWR","flight":1,"a b":"A1"}', "$.data: A field that the contract does not know"),
    ('[["origin"]]', "$.data: Expected `object`, got `array`"),
]


@pytest.mark.parametrize(("row", "reason"), ROWS)
def test_decoder_names_the_rule_and_the_field(departures: Contract, row: str, reason: str) -> None:
    decoder = departures.decoder()
    if not reason:
        decoder.decode(row)
        return
    with pytest.raises(msgspec.ValidationError) as caught:
        decoder.decode(row)
    assert explain(caught.value, personal=False) == reason


@pytest.mark.parametrize(("row", "reason"), ROWS)
def test_the_quick_decoder_says_the_same(departures: Contract, row: str, reason: str) -> None:
    quick = QuickDecoder(departures.stream, departures.fields)
    for _ in range(2):
        if not reason:
            whole = departures.decoder().decode(row)
            assert list(quick.decode(row.encode()).items()) == list(msgspec.structs.asdict(whole).items())
            continue
        with pytest.raises(msgspec.ValidationError) as caught:
            quick.decode(row.encode())
        assert explain(caught.value, personal=False) == reason


def test_the_first_fault_is_told_by_the_quick_decoder_too(departures: Contract) -> None:
    quick = QuickDecoder(departures.stream, departures.fields)
    with pytest.raises(msgspec.ValidationError, match="matching regex"):
        quick.decode(b'{"tailnum":"n1234","flight":0}')


def test_what_is_remembered_as_matching_is_bounded() -> None:
    field = Field(name="word", type="string", limits={"pattern": "^[a-z][0-9]*$"})
    quick = QuickDecoder("s", [field])
    for number in range(MOST_REMEMBERED + 10):
        quick.decode(b'{"word":"a%d"}' % number)
        assert len(MATCHED_LATELY["^[a-z][0-9]*$"]) <= MOST_REMEMBERED
    assert quick.decode(b'{"word":"b"}') == {"word": "b"}
    with pytest.raises(msgspec.ValidationError, match="regex"):
        quick.decode(b'{"word":"9"}')


def test_a_text_that_matched_in_one_stream_is_remembered_in_the_other() -> None:
    field = Field(name="key", type="string", limits={"pattern": "^key-"})
    QuickDecoder("questions", [field]).decode(b'{"key":"key-1"}')
    assert MATCHED_LATELY["^key-"] == {"key-1"}
    assert QuickDecoder("outcomes", [field]).decode(b'{"key":"key-1"}') == {"key": "key-1"}


def test_nothing_personal_and_nothing_long_is_remembered() -> None:
    fields = [
        Field(name=name, type="string", limits={"pattern": "a+"}, personal=name == "who") for name in ("who", "x")
    ]
    quick = QuickDecoder("s", fields)
    assert quick.decode(b'{"who":"anna","x":"' + b"a" * 65 + b'"}')["who"] == "anna"
    assert MATCHED_LATELY["a+"] == set()


def test_names_of_unknown_fields_are_not_repeated_where_fields_are_personal(departures: Contract) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        departures.decoder().decode('{"origin":"EWR","flight":1,"anna":1}')
    assert explain(caught.value, personal=True) == "$.data: A field that the contract does not know"


def test_absent_is_null_and_fields_come_in_the_order_of_names(departures: Contract) -> None:
    row = msgspec.structs.asdict(departures.decoder().decode('{"origin":"JFK","flight":7}'))
    assert list(row.items()) == [
        ("cancelled", None),
        ("delay", None),
        ("flight", 7),
        ("origin", "JFK"),
        ("tailnum", None),
    ]


def test_integers_have_64_bits(tmp_path: Path) -> None:
    text = HEAD + "schema: [{name: s, properties: [{name: n, logicalType: integer, required: true}]}]\n" + WINDOWS
    decoder = load_contracts(write(tmp_path, text))["s"].decoder()
    assert msgspec.structs.asdict(decoder.decode(f'{{"n":{2**63 - 1}}}')) == {"n": 2**63 - 1}
    for number in (2**63, -(2**63) - 1, 10**400):
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(f'{{"n":{number}}}')
        frame = pd.DataFrame({"n": pd.Series([number], dtype=object)})
        assert frame_violations(frame_schema_of("s", [Field(name="n", type="integer")]), frame) != []


def test_patterns_are_searched_for() -> None:
    fields = [Field(name="a", type="string", limits={"pattern": "b"})]
    schema, decoder = frame_schema_of("s", fields), decoder_of("s", fields)
    decoder.decode('{"a":"abc"}')
    assert frame_violations(schema, pd.DataFrame({"a": ["abc"]})) == []
    assert frame_violations(schema, pd.DataFrame({"a": ["xyz"]})) == ["column a: 1 rows fail string"]


def frame(**columns: object) -> pd.DataFrame:
    good: dict[str, object] = {"origin": ["EWR", "LGA"], "flight": [1, 2]}
    return pd.DataFrame(good | columns)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"delay": [1.5, np.nan]},
        {"delay": [1, 2]},
        {"cancelled": [True, None]},
        {"cancelled": [True, False]},
        {"flight": pd.array([1, 2], dtype="Int64")},
        {"tailnum": pd.array(["N12345", None], dtype="string")},
    ],
)
def test_frames_of_any_dtype_are_accepted(departures: Contract, columns: dict[str, object]) -> None:
    assert frame_violations(departures.frame_schema(), frame(**columns)) == []


@pytest.mark.parametrize(
    ("columns", "finding"),
    [
        ({"origin": ["EWR", "BOS"]}, "column origin: 1 rows fail string"),
        ({"origin": ["EWR", None]}, "column origin: 1 rows fail not_nullable"),
        ({"flight": [1.0, 2.0]}, "column flight: 2 rows fail integer"),
        ({"flight": [True, False]}, "column flight: 2 rows fail integer"),
        ({"delay": [np.inf, 1.0]}, "column delay: 1 rows fail number"),
        ({"cancelled": [1, 0]}, "column cancelled: 2 rows fail boolean"),
        ({"gate": ["A", "B"]}, "rows fail column_in_schema"),
    ],
)
def test_findings_of_a_frame_have_no_values(departures: Contract, columns: dict[str, object], finding: str) -> None:
    (found,) = frame_violations(departures.frame_schema(), frame(**columns))
    assert finding in found
    assert "BOS" not in found


def test_a_missing_required_column_is_found(departures: Contract) -> None:
    (found,) = frame_violations(departures.frame_schema(), frame().drop(columns="flight"))
    assert "column_in_dataframe" in found


BAD = """\
apiVersion: v3.1.0
kind: DataContract
id: bad
version: one
status: active
schema:
  - name: bad stream
    properties:
      - name: delay
        logicalType: float
      - name: delay
        logicalType: number
        logicalTypeOptions: {minLength: 3}
      - name: origin
        logicalType: string
        requird: true
        logicalTypeOptions:
          pattern: "["
      - name: class
        logicalType: integer
        unique: true
        logicalTypeOptions: {minimum: 5, maximum: 4}
      - name: seat
        logicalType: string
        enum: [{value: 1}]
customProperties:
  - {property: dedupWindow, value: 1h}
  - {property: maxGap, value: soon}
  - {property: lateness, value: 2h}
  - {property: maxByte, value: 7}
  - {property: subject, value: nobody}
"""


def test_all_mistakes_of_all_files_come_at_once(tmp_path: Path) -> None:
    write(tmp_path, BAD, "bad.odcs.yaml")
    write(tmp_path, "a: [1\nb: 2\n", "broken.odcs.yaml")
    write(tmp_path, GOOD, "a.odcs.yaml")
    write(tmp_path, GOOD, "b.odcs.yaml")
    write(tmp_path, GOOD, "misnamed.yaml")
    found = mistakes(tmp_path)
    assert found == [
        "bad.odcs.yaml:30: custom property 'maxByte' is not one of "
        "dedupWindow, maxGap, lateness, maxBytes, subject, mode",
        "bad.odcs.yaml:7: stream name 'bad stream' is not letters, digits, '_', '.' and '-'",
        "bad.odcs.yaml:4: version 'one' is not three numbers, such as 1.0.0",
        "bad.odcs.yaml:10: logicalType 'float' is not one of string, integer, number, boolean",
        "bad.odcs.yaml:13: option 'minLength' does not apply to number; "
        "it knows minimum, exclusiveMinimum, maximum, exclusiveMaximum",
        "bad.odcs.yaml:11: field 'delay' is named twice",
        "bad.odcs.yaml:16: 'requird' is not a key of a property in the standard",
        "bad.odcs.yaml:18: option 'pattern' is not a regular expression: unterminated character set at position 0",
        "bad.odcs.yaml:21: 'unique' is not enforced at intake; leave it out, "
        "or write quality with metric duplicateValues",
        "bad.odcs.yaml:19: field name 'class' is not a plain identifier (letters, digits, underscores)",
        "bad.odcs.yaml:22: no value can meet these bounds: the lower one lies above the upper one",
        "bad.odcs.yaml:25: enum holds a value that is not a string; quote it",
        "bad.odcs.yaml:28: maxGap: 'soon' is not a span; write a whole number and a unit, such as 36h, 14d or 5m",
        "bad.odcs.yaml:27: dedupWindow 1h is shorter than lateness 2h",
        "bad.odcs.yaml:31: subject 'nobody' is not a field of the stream",
        "broken.odcs.yaml:2: not YAML: expected ',' or ']', but got ':'",
        "misnamed.yaml: not read as a contract; name it misnamed.odcs.yaml",
        "b.odcs.yaml:7: stream 'departures' has another contract already",
    ]


def one_field(extra: str, custom: str = "") -> str:
    field = f"{{name: a, logicalType: string, {extra}}}"
    return HEAD + f"schema: [{{name: s, properties: [{field}]}}]\n" + WINDOWS + custom


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (GOOD.replace("v3.1.0", "v2.2.2"), ":1: apiVersion is not a version 3 of the standard, such as v3.2.0"),
        (GOOD.replace("DataContract", "Data"), ":2: kind is not DataContract"),
        (GOOD.replace("status: active", "state: active"), ":5: state: Extra inputs are not permitted"),
        (GOOD.replace("version: 2.1.0", "version: 2.1"), ":4: version: Input should be a valid string"),
        (GOOD.replace("required: true", "required: maybe", 1), ":11: schema.0.properties.0.required: Input should"),
        (GOOD.replace("id: departures", "id: &x departures\nname: *x"), ":4: not YAML: aliases are not read here"),
        (GOOD.replace("kind:", "id: twice\nkind:"), ":4: key 'id' stands here twice"),
        (GOOD.replace("  - {property: maxGap, value: 7d}\n", ""), "custom property 'maxGap' is missing"),
        (GOOD + "  - {property: maxGap, value: 8d}\n", "custom property 'maxGap' stands here twice"),
        (GOOD + "  - {property: maxBytes, value: 0}\n", "maxBytes: 0 is not a whole number of bytes above 0"),
        (
            GOOD + "  - {property: maxBytes, value: 99000000}\n",
            "99000000 is not a whole number of bytes above 0, up to",
        ),
        (GOOD.replace("value: 7d", "value: 0s"), "maxGap: '0s' is no span above 0"),
        (HEAD + WINDOWS, "a contract has exactly one schema object"),
        (HEAD + "schema: [{name: s}]\n" + WINDOWS, ":6: the stream has no properties"),
        (
            one_field("enum: [{value: x}, {value: '1'}], logicalTypeOptions: {pattern: '[a-z]'}"),
            "enum value number 2 breaks the field's own logicalTypeOptions",
        ),
        (one_field("enum: [{value: x}, {value: x}]"), "enum names a value twice"),
        (one_field("logicalTypeOptions: {minLength: -1}"), "option 'minLength' is not a whole number from 0 up"),
        (
            one_field("logicalTypeOptions: {minLength: 1180591620717411303424}"),
            "'minLength' is not a whole number from 0",
        ),
        (
            one_field("classification: Personal"),
            "classification 'Personal' is not one of personal, public, internal",
        ),
        (one_field("classification: personal"), "a: personal, so the custom property 'subject' must name who"),
        (
            one_field("classification: personal", "  - {property: subject, value: a}\n"),
            ":11: subject 'a' is not a required personal string",
        ),
        (
            one_field("customProperties: [{property: entityKey, value: true}]"),
            "entityKey is for personal fields; others stay in the body as they are",
        ),
        ("[1, 2]\n", ":1: not a mapping of keys to values"),
        ("", ":1: not a mapping of keys to values"),
        ("a: 2013-02-30\n", "not readable as YAML: ValueError"),
        ("[" * 5000, "not readable as YAML: RecursionError"),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, mistake: str) -> None:
    (found,) = mistakes(write(tmp_path, text))
    assert found.startswith("departures.odcs.yaml")
    assert mistake in found


def test_a_folder_without_contracts(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        (found,) = mistakes(folder)
        assert found == f"{folder.name}: no contract here; write one as STREAM.odcs.yaml"


def test_personal_fields(tmp_path: Path) -> None:
    text = HEAD + (
        "schema:\n"
        "  - name: visits\n"
        "    properties:\n"
        "      - {name: person, logicalType: string, required: true, classification: personal}\n"
        "      - {name: phone, logicalType: string, classification: personal,\n"
        "         customProperties: [{property: entityKey, value: true}]}\n"
        "      - {name: age, logicalType: integer, classification: personal}\n"
        "      - {name: page, logicalType: string, classification: public}\n"
    )
    subject = "  - {property: subject, value: person}\n"
    contract = load_contracts(write(tmp_path, text + WINDOWS + subject))["visits"]
    assert contract.personal == {"person", "phone", "age"}
    assert contract.pseudonymous == {"person", "phone"}
