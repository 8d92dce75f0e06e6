"""``rivermill contracts``: what it prints, and how it exits."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from journal.errors import Misconfigured
from rivermill.contract_commands import contracts
from rivermill.place import Place

SHOP = Path(__file__).parents[1] / "golden" / "orders"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    shutil.copytree(SHOP, tmp_path / "shop")
    return tmp_path / "shop"


def run(folder: Path, *arguments: str) -> str:
    """What a command prints; raises what it raises."""
    place = Place(folder.parent, folder.parent)
    result = CliRunner().invoke(contracts, [*arguments, "--json"], obj=place, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def rewrite(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / "contracts" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_check_counts_what_it_read(shop: Path) -> None:
    assert json.loads(run(shop, "check", "shop")) == {"streams": 1, "earlier": 1, "rules": 0, "mistakes": 0}


def test_check_names_the_file_and_the_line(shop: Path) -> None:
    rewrite(shop, "orders.odcs.yaml", "minimum: 0", "minimum: 0, maximum: -1")
    with pytest.raises(Misconfigured, match=r"orders.odcs.yaml:21: no value can meet these bounds"):
        run(shop, "check", "shop")


def test_check_looks_for_the_adapters(shop: Path) -> None:
    (shop / "adapters.py").unlink()
    with pytest.raises(Misconfigured, match=r"adapters.py: this file is missing") as caught:
        run(shop, "check", "shop")
    assert caught.value.exit_code == 4


def test_list_shows_every_version(shop: Path) -> None:
    new, old = json.loads(run(shop, "list", "shop"))
    assert new == {
        "stream": "orders",
        "version": "2.0.0",
        "mode": "evolve",
        "owner": "shop",
        "fields": 4,
        "personal": 0,
        "rules": 0,
        "retention": "30d",
        "latency": "1h",
        "rpo": "",
        "rto": "",
    }
    assert (old["version"], old["mode"], old["retention"]) == ("1.3.0", "freeze", "")


def test_diff_compares_with_the_version_before(shop: Path) -> None:
    rows = json.loads(run(shop, "diff", "shop"))
    assert {(row["stream"], row["versions"]) for row in rows} == {("orders", "1.3.0 -> 2.0.0")}
    assert {row["field"]: row["verdict"] for row in rows if not row["field"].startswith("(")} == {
        "cents": "breaking",
        "express": "compatible",
        "price": "breaking",
        "shipping": "breaking",
    }


def test_diff_against_another_folder(shop: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(shop / "contracts", before)
    assert json.loads(run(shop, "diff", "shop", "--against", str(before))) == []
    rewrite(shop, "orders.odcs.yaml", "minimum: 0", "minimum: -5")
    (row,) = json.loads(run(shop, "diff", "shop", "--against", str(before)))
    assert (row["field"], row["change"], row["verdict"]) == ("cents", "lower bound 0 became -5", "compatible")


def test_diff_refuses_what_breaks_without_a_new_major_version(shop: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(shop / "contracts", before)
    rewrite(shop, "orders.odcs.yaml", "minimum: 0", "minimum: 5")
    with pytest.raises(Misconfigured, match=r"'orders' goes from 2.0.0 to 2.0.0\n  cents: lower bound 0 became 5") as e:
        run(shop, "diff", "shop", "--against", str(before))
    assert e.value.exit_code == 4


def test_diff_shows_streams_that_come_and_go(shop: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    text = (shop / "contracts" / "orders.odcs.yaml").read_text()
    (before / "carts.odcs.yaml").write_text(text.replace("name: orders", "name: carts"))
    rows = json.loads(run(shop, "diff", "shop", "--against", str(before)))
    assert [(row["stream"], row["change"], row["verdict"]) for row in rows] == [
        ("carts", "stream removed", "breaking"),
        ("orders", "new stream", "compatible"),
    ]
