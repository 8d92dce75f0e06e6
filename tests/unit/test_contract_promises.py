"""What contracts promise beside their fields, rules over many events, and contracts that contradict themselves."""

from pathlib import Path

import pytest

from journal.clock import DAY, HOUR
from journal.contract import Contract, QualityRule, load_contracts
from journal.errors import Misconfigured

HEAD = """\
apiVersion: v3.1.0
kind: DataContract
id: flights
version: 2.0.0
"""
WINDOWS = """\
customProperties:
  - {property: dedupWindow, value: 14d}
  - {property: maxGap, value: 7d}
"""
SUBJECT = "  - {property: subject, value: who}\n"
PERSONAL = "{name: who, logicalType: string, required: true, classification: personal}"
PLANES = HEAD + "schema: [{name: planes, properties: [{name: tail, logicalType: string, required: true}]}]\n" + WINDOWS


def file(promises: str = "", quality: str = "", *, field: str = "", more: str = "", custom: str = "") -> str:
    """A contract of one stream ``flights`` with the field ``tail``, in lines that the tests below count."""
    field = field or "{name: tail, logicalType: string" + (f", quality: [{quality}]" if quality else "") + "}"
    return HEAD + promises + f"schema:\n  - name: flights\n    properties:\n      - {field}\n{more}" + WINDOWS + custom


def load(folder: Path, text: str, **others: str) -> dict[str, Contract]:
    (folder / "flights.odcs.yaml").write_text(text)
    for name, other in others.items():
        (folder / f"{name.replace('_', '.')}.odcs.yaml").write_text(other)
    return load_contracts(folder)


def mistakes(folder: Path, text: str, **others: str) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load(folder, text, **others)
    return [line.strip() for line in caught.value.which.splitlines()[1:]]


PROMISES = """\
team: {name: operations}
description: {purpose: A flight has left.}
slaProperties:
  - {property: retention, value: 2, unit: y}
  - {property: latency, value: 36h, driver: operational}
  - {property: rpo, value: 0, unit: s}
  - {property: rto, value: 15, unit: minutes}
"""


def test_promises(tmp_path: Path) -> None:
    contract = load(tmp_path, file(PROMISES, custom="  - {property: mode, value: discard_value}\n"))["flights"]
    assert (contract.owner, contract.description, contract.mode) == (
        "operations",
        "A flight has left.",
        "discard_value",
    )
    assert (contract.retention, contract.timeliness) == (730 * DAY, 36 * HOUR)
    assert (contract.rpo, contract.rto) == (0, HOUR // 4)


def test_where_nothing_is_promised(tmp_path: Path) -> None:
    contract = load(tmp_path, file())["flights"]
    assert (contract.owner, contract.mode, contract.quality, contract.earlier) == ("", "freeze", (), ())
    assert {contract.retention, contract.timeliness, contract.rpo, contract.rto} == {None}


@pytest.mark.parametrize(
    "team",
    ["[{username: bo}, {username: anna, role: Owner}]", "{members: [{username: anna, role: owner}]}", "{name: anna}"],
)
def test_the_owner_is_the_team_or_its_owner(tmp_path: Path, team: str) -> None:
    assert load(tmp_path, file(f"team: {team}\n"))["flights"].owner == "anna"


@pytest.mark.parametrize(
    ("promises", "mistake"),
    [
        ("team: [{username: bo, role: writer}]\n", ":5: team says no owner"),
        ("slaProperties: [{property: uptime, value: 9}]\n", ":5: 'uptime' is not one of retention, latency, rpo, rto"),
        ("slaProperties: [{property: rto, value: soon}]\n", ":5: rto: 'soon' is not a span"),
        ("slaProperties: [{property: rto, value: 1.5, unit: h}]\n", ":5: rto: 1.5 is not a whole number from 0 up"),
        ("slaProperties: [{property: rto, value: 1, unit: moons}]\n", ":5: rto: unit 'moons' is not one of s, second"),
        ("slaProperties: [{property: rto, value: 0s}]\n", ":5: rto is 0, which nothing can meet"),
        ("slaProperties: [{property: rto, value: 1h, schedule: x}]\n", ":5: 'schedule' of an objective is not kept"),
        ("slaProperties:\n- {property: rto, value: 1h}\n- {property: rto, value: 2h}\n", ":7: 'rto' stands here twice"),
        ("slaProperties: [{property: retention, value: 13, unit: d}]\n", ":5: retention 13d is shorter than dedupWin"),
        ("slaProperties: [{property: latency, value: 15, unit: d}]\n", ":5: latency 15d is above dedupWindow 14d"),
    ],
)
def test_a_promise_that_nothing_keeps(tmp_path: Path, promises: str, mistake: str) -> None:
    (found,) = mistakes(tmp_path, file(promises))
    assert found.startswith("flights.odcs.yaml" + mistake)


def test_an_unknown_mode(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, file(custom="  - {property: mode, value: lenient}\n"))
    assert found == "flights.odcs.yaml:12: mode 'lenient' is not one of freeze, evolve, discard_row, discard_value"


STOP = "customProperties: [{property: stop, value: true}, {property: window, value: 6h}]"
REFERENCE = "type: custom, engine: rivermill, implementation: {metric: reference, to: planes.tail}"
LATE = "    quality: [{type: custom, engine: rivermill, implementation: {metric: late}, mustBe: 0}]\n"


def test_rules(tmp_path: Path) -> None:
    quality = (
        "{metric: nullValues, mustBeLessOrEqualTo: 2.5, unit: percent}, "
        f"{{type: library, metric: invalidValues, mustBe: 0, name: odd tails, {STOP}}}, "
        "{metric: duplicateValues, mustBeLessOrEqualTo: 100, unit: percent}, "
        f"{{{REFERENCE}, mustBeLessOrEqualTo: 15, unit: percent}}"
    )
    contract = load(tmp_path, file(PROMISES, quality, more=LATE), planes=PLANES)["flights"]

    def rule(name: str, metric: str, most: float, field: str = "tail", **more: object) -> QualityRule:
        return QualityRule(name=name, field=field, metric=metric, most=most, **{"window": HOUR, **more})  # type: ignore[arg-type]

    assert contract.quality == (
        rule("flights.tail.missing", "missing", 0.025),
        rule("odd tails", "invalid", 0.0, window=6 * HOUR, stop=True),
        rule("flights.tail.unique", "unique", 1.0),
        rule("flights.tail.reference", "reference", 0.15, reference="planes.tail"),
        rule("flights.late", "late", 0.0, field=""),
    )


@pytest.mark.parametrize(
    ("quality", "mistake"),
    [
        (
            "{metric: rowCount, mustBe: 0}",
            "quality rule 'rowCount' is not measured; there are nullValues, missingValues",
        ),
        ("{type: sql, query: select 1, mustBe: 0}", "'query' of a quality rule is not measured; leave it out"),
        ("{metric: nullValues}", "a quality rule says mustBeLessOrEqualTo with unit percent, or mustBe 0"),
        ("{metric: nullValues, mustBe: 1}", "a quality rule says mustBeLessOrEqualTo with unit percent, or mustBe 0"),
        ("{metric: nullValues, mustBeLessThan: 3}", "'mustBeLessThan' of a quality rule is not measured; leave it out"),
        ("{metric: nullValues, mustBeLessOrEqualTo: 3}", "unit is not percent: what is measured is a share"),
        ("{metric: nullValues, mustBeLessOrEqualTo: 101, unit: percent}", "101 is not a percentage from 0 to 100"),
        (
            "{metric: invalidValues, mustBe: 0, arguments: {}}",
            "'arguments' of a quality rule is not measured; leave it",
        ),
        (
            "{type: custom, engine: other, implementation: {metric: late}, mustBe: 0}",
            "a custom rule is engine rivermill",
        ),
        ("{type: custom, engine: rivermill, implementation: {metric: late}, mustBe: 0}", "late is about whole events"),
        (
            "{type: custom, engine: rivermill, implementation: {metric: reference}, mustBe: 0}",
            "reference takes 'to', a",
        ),
        (f"{{{REFERENCE}, mustBe: 0}}", "reference 'planes.tail' names no stream here; write STREAM.FIELD"),
        (
            f"{{{REFERENCE.replace('planes', 'flights').replace('tail', 'seat')}, mustBe: 0}}",
            "'flights' has no field 'seat'",
        ),
        (
            "{metric: nullValues, mustBe: 0, customProperties: [{property: window, value: 0s}]}",
            "window is 0: nothing would",
        ),
        (
            "{metric: nullValues, mustBe: 0, customProperties: [{property: window, value: x}]}",
            "window: 'x' is not a span",
        ),
        (
            "{metric: nullValues, mustBe: 0, customProperties: [{property: stop, value: 1}]}",
            "stop is not true or false",
        ),
        (
            "{metric: nullValues, mustBe: 0, customProperties: [{property: halt, value: 1}]}",
            "custom property 'halt' is not",
        ),
        (
            "{metric: nullValues, mustBe: 0}, {metric: missingValues, mustBe: 0}",
            "'flights.tail.missing' is named twice",
        ),
    ],
)
def test_a_rule_that_nothing_measures(tmp_path: Path, quality: str, mistake: str) -> None:
    found = mistakes(tmp_path, file(quality=quality))
    assert [line for line in found if mistake in line and line.startswith("flights.odcs.yaml:")], found


@pytest.mark.parametrize(
    ("field", "custom", "mistake"),
    [
        (
            "{name: tail, logicalType: string, required: true, "
            "quality: [{metric: nullValues, mustBeLessOrEqualTo: 1, unit: percent}]}",
            "",
            ":8: quality rule 'flights.tail.missing': the field is required, so no share of it may be missing",
        ),
        (
            f"{PERSONAL}\n      - {{name: age, logicalType: integer, classification: personal, "
            "quality: [{metric: duplicateValues, mustBe: 0}]}",
            SUBJECT,
            ":9: quality rule 'flights.age.unique': the field is sealed at intake, so nothing can measure it",
        ),
        (
            PERSONAL.replace("}", f", quality: [{{{REFERENCE}, mustBe: 0}}]}}"),
            SUBJECT,
            ":8: quality rule 'flights.who.reference': the field is personal: its values cannot be compared",
        ),
        (
            f"{{name: tail, logicalType: integer, quality: [{{{REFERENCE}, mustBe: 0}}]}}",
            "",
            ":6: quality rule 'flights.tail.reference': planes.tail is string, tail is integer",
        ),
    ],
)
def test_a_rule_that_contradicts_its_contract(tmp_path: Path, field: str, custom: str, mistake: str) -> None:
    assert mistakes(tmp_path, file(field=field, custom=custom), planes=PLANES) == ["flights.odcs.yaml" + mistake]


def test_nothing_is_late_without_a_latency(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, file(more=LATE))
    assert found.endswith(":9: quality rule 'flights.late': nothing is late without slaProperties that say latency")


def test_a_rule_of_the_stream_is_late_or_none(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, file(more="    quality: [{metric: nullValues, mustBe: 0}]\n"))
    assert found.endswith(":9: missing is about one field: write it under that field's quality")


OLD = file().replace("2.0.0", "1.5.0")


def test_earlier_versions_come_newest_first(tmp_path: Path) -> None:
    (contract,) = load(tmp_path, file(), flights_v0=OLD.replace("1.5.0", "0.1.0"), flights_v1=OLD).values()
    assert (contract.version, [old.version for old in contract.earlier]) == ("2.0.0", ["1.5.0", "0.1.0"])


def test_a_stream_may_be_named_like_a_version(tmp_path: Path) -> None:
    loaded = load(tmp_path, file(), flights_v1=OLD.replace("name: flights", "name: flights.v1"))
    assert {stream: contract.earlier for stream, contract in loaded.items()} == {"flights": (), "flights.v1": ()}


PERSON = file(field=PERSONAL, custom=SUBJECT)


@pytest.mark.parametrize(
    ("text", "others", "mistake"),
    [
        (
            file(),
            {"flights_v1": OLD.replace("1.5.0", "3.0.0")},
            "flights.v1.odcs.yaml:6: the file's name says 'flights' ve",
        ),
        (
            file(),
            {"flights_v0": OLD.replace("1.5.0", "0.1.0")},
            "flights.v0.odcs.yaml:4: major version 0 does not come ri",
        ),
        (file(), {"flights_v2": file()}, "flights.v2.odcs.yaml:4: major version 2 does not come right before 2"),
        (
            file(),
            {"planes_v1": PLANES.replace("2.0", "1.0")},
            "planes.v1.odcs.yaml:5: stream 'planes' has no current con",
        ),
        (
            file(),
            {"flights_v1": PERSON.replace("2.0", "1.0")},
            "flights.v1.odcs.yaml:6: subject 'who' is '' in version 2",
        ),
        (
            file(field=PERSONAL + "\n      - {name: age, logicalType: integer}", custom=SUBJECT),
            {
                "flights_v1": file(
                    field=PERSONAL + "\n      - {name: age, logicalType: integer, classification: personal}",
                    custom=SUBJECT,
                ).replace("2.0.0", "1.0.0")
            },
            "flights.v1.odcs.yaml:6: age: personal here and not in version 2, so masks would leave it readable",
        ),
        (
            file(),
            {"flights_v1": file(quality="{metric: nullValues, mustBe: 0}").replace("2.0.0", "1.0.0")},
            "flights.v1.odcs.yaml:6: an earlier version has no quality rules",
        ),
    ],
)
def test_versions_that_do_not_fit(tmp_path: Path, text: str, others: dict[str, str], mistake: str) -> None:
    (found,) = mistakes(tmp_path, text, **others)
    assert found.startswith(mistake)
