"""The page of faults names tests that exist, every fault, and every test that bears a fault's number."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()
FAULTS = 24


def names_in(path: Path) -> set[str]:
    return set(re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.MULTILINE))


def test_every_test_that_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > FAULTS
    assert [f"{file}::{name}" for file, name in named if name not in names_in(ROOT / file)] == []


def test_every_fault_has_a_row_that_says_how_it_is_tried() -> None:
    rows = re.findall(r"^\| R(\d+) \|.*\| (.+) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, FAULTS + 1))
    assert [number for number, tried in rows if "::" not in tried and "not tried" not in tried] == []


def test_every_test_with_a_number_is_in_that_row() -> None:
    numbered = {
        name for path in ROOT.glob("tests/*/test_*.py") for name in names_in(path) if re.match(r"test_r\d\d_", name)
    }
    rows = {int(number): row for number, row in re.findall(r"^\| R(\d+) (\|.*)$", PAGE, re.MULTILINE)}
    assert numbered
    assert [name for name in sorted(numbered) if f"::{name}`" not in rows[int(name[6:8])]] == []
