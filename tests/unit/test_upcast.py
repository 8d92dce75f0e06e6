"""Records of earlier versions are read as today's; an adapter that fails is named, with the record's position."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from journal.clock import DAY
from journal.contract import Contract
from journal.errors import Misconfigured, NotLifted
from journal.field import Field
from journal.record import Kind, Record, canonical_json
from journal.upcast import Adapter, Adapters, adapter_name
from rivermill.adapter_file import load_adapters


def contract(major: int, *fields: Field, earlier: tuple[Contract, ...] = (), subject: str = "") -> Contract:
    version = f"{major}.0.0"
    return Contract(
        stream="shop.orders",
        version=version,
        fields=fields,
        dedup_window=DAY,
        max_gap=DAY,
        earlier=earlier,
        subject=subject,
    )


ONE = contract(1, Field(name="price", type="number", required=True))
TWO = contract(2, Field(name="cents", type="integer", required=True, limits={"ge": 0}))
THREE = contract(
    3,
    Field(name="cents", type="integer", required=True, limits={"ge": 0}),
    Field(name="currency", type="string", required=True, choices=("EUR",)),
    Field(name="note", type="string"),
    earlier=(TWO, ONE),
)


def to_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"cents": round(data["price"] * 100)}


def to_euros(data: dict[str, Any]) -> dict[str, Any]:
    data["currency"] = "EUR"
    return data


FUNCTIONS: Mapping[str, Adapter] = {"shop_orders_1_to_2": to_cents, "shop_orders_2_to_3": to_euros}


def record(schema: int, data: dict[str, Any], kind: Kind = Kind.SOURCE, stream: str = "shop.orders") -> Record:
    return Record(
        kind=kind, stream=stream, id="e", body=canonical_json(data), schema=schema, partition=0, offset=17, at=1
    )


def adapters(**functions: Adapter) -> Adapters:
    return Adapters({"shop.orders": THREE}, {**FUNCTIONS, **functions}, file="adapters.py")


@pytest.mark.parametrize(("schema", "data"), [(1, {"price": 1.5}), (2, {"cents": 150})])
def test_a_record_climbs_every_step(schema: int, data: dict[str, Any]) -> None:
    stored = record(schema, data)
    lifted = adapters().lift(stored)
    assert list(lifted.data.items()) == [("cents", 150), ("currency", "EUR"), ("note", None)]
    assert (lifted.schema, lifted.body, lifted.offset, lifted.id) == (3, canonical_json(data), 17, "e")
    assert (stored.schema, stored.data) == (schema, data)
    assert adapters().lift(lifted) is lifted


@pytest.mark.parametrize(
    "untouched",
    [
        record(3, {"anything": 1}),
        record(1, {}, stream="elsewhere"),
        record(1, {}, Kind.QUARANTINE),
        record(1, {}, Kind.PREDICTION),
    ],
)
def test_everything_else_is_handed_through(untouched: Record) -> None:
    assert adapters().lift(untouched) is untouched


def test_a_question_is_lifted_as_well() -> None:
    assert adapters().lift(record(1, {"price": 2}, Kind.QUESTION)).data["cents"] == 200


def throws(data: dict[str, Any]) -> dict[str, Any]:
    raise KeyError(data["price"])


def gives_none(data: dict[str, Any]) -> Any:
    data.clear()


def leaves(_: dict[str, Any]) -> Any:
    raise SystemExit(1)


def test_an_adapter_gives_nothing_that_intake_would_not_have_read() -> None:
    with pytest.raises(NotLifted, match=r"shop_orders_2_to_3 in adapters\.py: it gave what JSON cannot say in note"):
        adapters(shop_orders_2_to_3=lambda _: {"cents": 1, "currency": "EUR", "note": "\ud800"}).lift(
            record(2, {"cents": 1})
        )


FAILING: list[tuple[Adapter, str]] = [
    (throws, "KeyError at line "),
    (leaves, "SystemExit at line "),
    (lambda: {}, "TypeError"),  # type: ignore[misc,list-item]
    (gives_none, "it gave $.data: Expected `object`, got `null`"),
    (lambda _: {"cents": -4711}, "it gave $.data.cents: Expected `int` >= 0"),
    (lambda _: {"cents": 1.5}, "it gave $.data.cents: Expected `int`, got `float`"),
    (lambda _: {"cents": "4711"}, "it gave $.data.cents: Expected `int`, got `str`"),
    (lambda _: {"cents": 1, "more": 4711}, "it gave $.data: A field that the contract does not know"),
    (lambda _: {}, "it gave $.data: Object missing required field `cents`"),
]


@pytest.mark.parametrize(("adapter", "what"), FAILING)
def test_an_adapter_that_fails_is_named_with_the_record_and_no_value(adapter: Adapter, what: str) -> None:
    with pytest.raises(NotLifted) as caught:
        adapters(shop_orders_1_to_2=adapter).lift(record(1, {"price": 4711}))
    where = "stream 'shop.orders', version 1, record at 0:17: shop_orders_1_to_2 in adapters.py: "
    assert caught.value.which.startswith(where + what)
    assert "4711" not in str(caught.value)


def test_a_version_without_a_contract_is_not_taken_for_todays() -> None:
    with pytest.raises(NotLifted, match="no contract of version 7 is declared"):
        adapters().lift(record(7, {"cents": 1}))
    with pytest.raises(NotLifted, match="no contract of version 1 is declared"):
        Adapters({"shop.orders": TWO}, {}).lift(record(1, {"price": 1}))


def test_sealed_fields_are_not_asked_for_and_pseudonyms_are_text() -> None:
    person = Field(name="person", type="string", required=True, personal=True, limits={"max_length": 3})
    age = Field(name="age", type="integer", required=True, personal=True, limits={"ge": 18})
    old = contract(1, person, subject="person")
    new = contract(2, person, age, earlier=(old,), subject="person")
    lifted = Adapters({"shop.orders": new}, {"shop_orders_1_to_2": dict}).lift(record(1, {"person": "0123456789"}))
    assert lifted.data == {"person": "0123456789"}


def test_the_digest_follows_the_file_and_the_contracts() -> None:
    def digest(contracts: Contract, source: bytes) -> str:
        return Adapters({"shop.orders": contracts}, FUNCTIONS, source=source).digest

    other = contract(3, *THREE.fields[1:], earlier=THREE.earlier)
    digests = [digest(THREE, b"a"), digest(THREE, b"a"), digest(THREE, b"b"), digest(other, b"a")]
    assert len(set(digests)) == 3
    assert digests[0] == digests[1]
    assert digest(contract(3, *THREE.fields), b"a") == ""


def test_names_of_adapters_are_plain() -> None:
    assert adapter_name("a.b-c", 1, 2) == "a_b_c_1_to_2"


GOOD = "def shop_orders_1_to_2(data):\n    return data\n\n\ndef shop_orders_2_to_3(data):\n    return data\n"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (None, "adapters.py: this file is missing"),
        (GOOD.replace("2_to_3", "2_to_4"), "no function shop_orders_2_to_3(data): nothing lifts version 2 of stream"),
        (GOOD.replace("def shop_orders_1_to_2", "shop_orders_1_to_2 = 7\ndef other"), "no function shop_orders_1_to_2"),
        ("import nothing_of_that_name\n", "adapters.py:1: ModuleNotFoundError"),
        ("x = 1\ny = 1 / 0\n", "adapters.py:2: ZeroDivisionError"),
        ("def broken(:\n", "adapters.py:1: SyntaxError"),
    ],
)
def test_a_file_of_adapters_with_a_mistake(tmp_path: Path, text: str | None, mistake: str) -> None:
    if text is not None:
        (tmp_path / "adapters.py").write_text(text)
    with pytest.raises(Misconfigured) as caught:
        load_adapters(tmp_path, {"shop.orders": THREE})
    assert mistake in caught.value.which


def test_the_file_is_read_only_where_it_is_needed(tmp_path: Path) -> None:
    assert load_adapters(tmp_path, {"shop.orders": TWO}).is_identity
    (tmp_path / "adapters.py").write_text(GOOD)
    assert not load_adapters(tmp_path, {"shop.orders": THREE}).is_identity
    with pytest.raises(Misconfigured, match="no contract of an earlier version"):
        load_adapters(tmp_path, {"shop.orders": TWO})
