"""Every verb over dataset versions, from the command line, over a played pipeline; and what it says of bad input."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from journal.body import Example, Version, decode, draft_of
from journal.clock import HOUR, format_time
from journal.errors import Corrupt, Misconfigured, NoLongerProvable, Refused, RivermillError, UnknownName
from journal.record import Kind
from rivermill.dataset_commands import dataset
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run

pytestmark = pytest.mark.slow

EVENTS = 900
MORE_VIEWS = """

reports_again = window_view(
    "reports_again",
    entities=[ip_in_url],
    ttl=timedelta(days=7),
    owner="phishing@example.org",
    description="The same under another name: no prediction holds it",
    features={
        "reports_1d": count("reports", over="1d", tile="1h"),
        "phishing_1d": rate("reports", "phishing", at_least=1, over="1d", tile="1h"),
        "phishing_7d": rate("reports", "phishing", at_least=1, over="7d", tile="6h"),
    },
)
wider = FeatureService(name="wider", features=[reports_by_ip, reports_again])
"""
TERMS = """
datasets:
  adhoc: {standard: 1h, keep: 2h}
  training: {standard: 3h, keep: 4h}
"""


class Shop:
    """The pipeline, played; and the command line over it."""

    def __init__(self, root: Path) -> None:
        folder = shutil.copytree(configs_folder() / "phishing", root / "pipelines" / "phishing")
        with (folder / "views.py").open("a") as views:
            views.write(MORE_VIEWS)
        with (folder / "pipeline.yaml").open("a") as settings:
            settings.write(TERMS)
        self.place = Place(root / "home", root / "pipelines")
        self.home = Home(root / "home", "phishing")
        self.pipeline = load_pipeline(folder)
        assert self.pipeline.recorded is not None
        self.events = self.pipeline.recorded()
        self.play(EVENTS)

    def play(self, events: int) -> None:
        with closing(self.open()) as run:
            run.lockstep.play(islice(self.events, events), "test")

    def open(self) -> Run:
        return open_run(self.pipeline, self.home)

    def moment(self, offset: int) -> str:
        """When the record at an offset became known."""
        with closing(self.open()) as run:
            return format_time(run.journal.read(0, offset - 1, 1)[0].at)

    def run(self, verb: str, *arguments: str) -> Result:
        cli = click.Group("rivermill", commands=[dataset])
        return CliRunner().invoke(cli, ["dataset", verb, "phishing", *arguments], obj=self.place)

    def facts(self, verb: str, *arguments: str) -> Any:
        result = self.run(verb, *arguments, "--json")
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    def prints(self, verb: str, *arguments: str) -> str:
        result = self.run(verb, *arguments)
        assert result.exit_code == 0, result.exception
        return result.stdout

    def fails(self, kind: type[RivermillError], verb: str, *arguments: str) -> str:
        result = self.run(verb, *arguments)
        assert isinstance(result.exception, kind), result.exception or result.output
        return str(result.exception)

    def rows(self, version: str) -> pa.Table:
        return pq.read_table(self.home.datasets / version / "rows.parquet")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def shop(played: Shop) -> Iterator[Shop]:
    """The played pipeline, without any version of another test."""
    yield played
    shutil.rmtree(played.home.datasets, ignore_errors=True)


def test_a_build_takes_all_that_was_joined_and_is_shown(shop: Shop) -> None:
    made = shop.facts("build")
    assert made["rows_out"] == made["considered"] - sum(made["excluded"].values()) == len(shop.rows(made["version"]))
    assert (made["kind"], made["storage"], made["window"]) == ("adhoc", "standard", "all")
    assert (made["reconstructed"], list(made["digests"])) == ({}, ["reports_by_ip@1"])
    assert {rule["rule"] for rule in made["quality"]} >= {"within the contract", "finite"}
    assert shop.facts("build") == made
    assert shop.facts("show", made["version"]) == {**made, "fitted_on_it": []}
    printed = shop.prints("show", made["version"])
    assert "reports_by_ip@1 (" in printed
    assert "finite: " in printed
    assert made["hash"] in printed
    (row,) = shop.facts("list")
    assert (row["version"], row["rows"], row["positives"]) == (made["version"], made["rows_out"], made["positives"])
    assert made["version"] in shop.prints("list")


def test_explain_writes_nothing_and_says_what_a_build_would_read(shop: Shop) -> None:
    told = shop.facts("build", "--explain", "--service", "wider", "--kind", "gate")
    assert not shop.home.datasets.exists()
    assert told["views"] == {"reports_by_ip@1": "as predicted", "reports_again@1": "as known (reconstructed)"}
    assert (told["kind"], told["window"], told["service"]) == ("gate", "all", shop_service(shop, "wider"))
    made = shop.facts("build", "--service", "wider", "--kind", "gate")
    assert [made[name] for name in ("first", "through", "as_of")] == [
        told[name] for name in ("first", "through", "as_of")
    ]
    assert made["kind"] == "gate"
    assert "as known (reconstructed)" in shop.prints("build", "--explain", "--service", "wider")


def shop_service(shop: Shop, name: str) -> str:
    from rivermill.datasets import services_of  # noqa: PLC0415 - as a command does

    return services_of(shop.pipeline)[name].label


def test_a_view_that_no_prediction_holds_is_the_same_joined_as_known(shop: Shop) -> None:
    """It is computed as the other one is: its cells are those of the other, which are as predicted."""
    made = shop.facts("build", "--service", "wider")
    table = shop.rows(made["version"])
    assert made["reconstructed"] == {"reports_again@1": len(table)}
    for name in ("reports_1d", "phishing_1d", "phishing_7d"):
        assert table[f"reports_again__{name}"].equals(table[f"reports_by_ip__{name}"])
    assert pc.sum(table["reports_again__reports_1d"]).as_py() > 0
    assert shop.facts("verify", made["version"])["verdict"] == "rebuilt and stored rows both match"


def test_as_of_and_window_cut_the_range(shop: Shop) -> None:
    whole = shop.rows(shop.facts("build")["version"])
    middle = shop.moment(whole["prediction"][len(whole) // 2].as_py())
    cut = shop.facts("build", "--as-of", middle, "--window", "2h")
    assert (cut["as_of"], cut["window"]) == (middle, "2h")
    made = shop.rows(cut["version"])
    offsets = made["prediction"].to_pylist()
    assert min(offsets) >= cut["first"]
    at = made["at"].cast(pa.int64())
    assert pc.max(at).as_py() - pc.min(at).as_py() < 2 * HOUR
    assert cut["through"] == whole["prediction"][len(whole) // 2].as_py()
    assert cut["excluded"]["pending"] > 0
    assert 0 < cut["rows_out"] < len(whole)


def test_a_difference_is_told_by_row_and_column(shop: Shop) -> None:
    one = shop.facts("build")["version"]
    cut = shop.facts("build", "--window", "3h")
    other, rows = cut["version"], shop.rows(one)
    told = shop.facts("diff", one, other)
    assert (told["removed"], told["added"], told["changed"]) == (len(rows) - cut["rows_out"], 0, 0)
    assert told["facts"]["window"] == [None, 3 * HOUR]
    assert "removed" in shop.prints("diff", one, other)
    wider = shop.facts("build", "--service", "wider")["version"]
    assert set(shop.facts("diff", one, wider)["columns"]) == {
        f"reports_again__{name}" for name in ("reports_1d", "phishing_1d", "phishing_7d")
    }


def test_a_changed_file_is_found_and_restored(shop: Shop) -> None:
    """By the program itself, so that its exit codes are those that the pages promise."""
    made = shop.facts("build")
    path = shop.home.datasets / made["version"] / "rows.parquet"
    rows = pq.read_table(path)
    place = rows.column_names.index("outcome")
    pq.write_table(rows.set_column(place, "outcome", pc.invert(rows["outcome"])), path)
    assert "its file differs, first in row 0" in shop.fails(Corrupt, "verify", made["version"])
    program = [sys.executable, "-m", "rivermill", "--home", str(shop.place.home), "--pipelines"]
    verify = [*program, str(shop.place.pipelines), "dataset", "verify", "phishing", made["version"]]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "")
    assert "column outcome" in done.stderr
    shop.facts("restore", made["version"])
    assert shop.rows(made["version"]).equals(rows)
    assert shop.facts("verify", made["version"])["hash"] == made["hash"]


def test_retention_plans_then_does_and_what_went_is_restored(shop: Shop) -> None:
    """Terms of the pipeline's own; ages count from when a version was last built, in the journal's time."""
    oldest = shop.facts("build", "--window", "2h")["version"]
    fitted = shop.facts("build", "--window", "3h")["version"]
    _fit(shop, fitted)
    assert shop.facts("show", fitted)["fitted_on_it"] == ["tree-000000000000"]
    assert shop.facts("retain") == []
    assert shop.prints("retain") == "nothing here\n"
    _age(shop, oldest, 3 * HOUR)
    _age(shop, fitted, 3 * HOUR)
    planned = shop.facts("retain", "--explain")
    assert {(step["version"], step["action"]) for step in planned} == {
        (oldest, "drop"),
        (fitted, "hold"),
        (fitted, "archive"),
    }
    assert {row["storage"] for row in shop.facts("list")} == {"standard"}
    assert shop.facts("retain", "--apply") == planned
    assert {row["version"]: row["storage"] for row in shop.facts("list")} == {oldest: "dropped", fitted: "archive"}
    assert shop.facts("verify", oldest)["rows"] == shop.facts("show", oldest)["rows_out"]
    assert "were let go of" in shop.fails(Refused, "diff", oldest, fitted)
    for version in (oldest, fitted):
        assert shop.facts("restore", version)["storage"] == "standard"
        assert shop.facts("verify", version)["verdict"] == "rebuilt and stored rows both match"
    result = shop.run("retain", "--explain", "--apply")
    assert (result.exit_code, "Either --explain or --apply" in result.output) == (2, True)


def _fit(shop: Shop, version: str) -> None:
    """Record a line that was fitted on it."""
    body = Version(
        line="tree-000000000000", family="batch", model="0" * 64, blob="", signature="", service="", dataset=version,
        job="j", trigger=0, recipe="tree", evidence={},
    )  # fmt: skip
    with closing(shop.open()) as run:
        run.journal.append([draft_of(body, kind=Kind.VERSION, stream="versions", id=body.line)])


def _age(shop: Shop, version: str, span: int) -> None:
    """Make a version as old as if it had been built so long ago."""
    path = shop.home.datasets / version / "keeping.json"
    keeping = json.loads(path.read_text())
    path.write_text(json.dumps({**keeping, "claimed": keeping["claimed"] - span}))


def test_what_the_journal_holds_no_longer_is_said(shop: Shop) -> None:
    """A manifest of a range that ends behind the journal, as after a restored backup: exit 22, and the rows stay."""
    made = shop.facts("build")
    path = shop.home.datasets / made["version"] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"through": made["through"] + 1_000}))
    told = shop.fails(NoLongerProvable, "verify", made["version"])
    assert "its rows have its hash" in told
    assert len(shop.rows(made["version"])) == made["rows_out"]
    assert NoLongerProvable.exit_code == 22


def test_a_later_label_makes_another_version_and_the_old_one_holds(shop: Shop) -> None:
    before = shop.facts("build")
    with closing(shop.open()) as run:
        pending = _pending(run)
        body = Example(key="", prediction=pending, label=pending, outcome=True)
        run.journal.append([draft_of(body, kind=Kind.EXAMPLE, stream="examples", id="late")])
    after = shop.facts("build")
    assert (after["rows_out"], after["version"] == before["version"]) == (before["rows_out"] + 1, False)
    for made in (before, after):
        assert shop.facts("verify", made["version"])["hash"] == made["hash"]
    told = shop.facts("diff", before["version"], after["version"])
    assert (told["added"], told["removed"], told["changed"]) == (1, 0, 0)


def _pending(run: Run) -> int:
    """A prediction that has not ended."""
    ended = {decode(record.body, Example).prediction for record in run.journal.of_kind(Kind.EXAMPLE, -1, 10_000)}
    made = [record.offset for record in run.journal.of_kind(Kind.PREDICTION, -1, 10_000)]
    return max(offset for offset in made if offset not in ended)


@pytest.mark.parametrize("verb", ["show", "verify", "restore"])
@pytest.mark.parametrize("version", ["phishing-000000000000", "../phishing", ""])
def test_unknown_versions_are_named_with_those_that_there_are(shop: Shop, verb: str, version: str) -> None:
    made = shop.facts("build", "--window", "1h")["version"]
    told = shop.fails(UnknownName, verb, version)
    assert f"there are: {made}" in told
    assert "dataset list" in told


def test_other_names_that_are_unknown(shop: Shop) -> None:
    made = shop.facts("build", "--window", "1h")["version"]
    assert "there are: phishing, wider" in shop.fails(UnknownName, "build", "--service", "narrow")
    assert "dataset 'other'" in shop.fails(UnknownName, "diff", made, "other")
    result = CliRunner().invoke(dataset, ["list", "nowhere"], obj=shop.place)
    assert isinstance(result.exception, UnknownName)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--as-of", "yesterday", "--as-of"),
        ("--as-of", "2020-01-01T00:00:00", "--as-of"),
        ("--window", "1", "--window"),
        ("--window", "-3h", "--window"),
        ("--window", "", "--window"),
        ("--kind", "other", "--kind"),
    ],
)
def test_nonsense_is_a_usage_error(shop: Shop, option: str, value: str, words: str) -> None:
    result = shop.run("build", option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{words}'" in result.output
    assert not shop.home.datasets.exists()


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2031-01-01T00:00:00Z", "the journal's time is 2020-01-01"),
        ("2019-01-01T00:00:00Z", "no prediction in the range"),
    ],
)
def test_moments_outside_the_journal_are_refused(shop: Shop, moment: str, words: str) -> None:
    assert words in shop.fails(Refused, "build", "--as-of", moment)
    assert not shop.home.datasets.exists()


def test_a_window_without_predictions_is_refused(shop: Shop) -> None:
    assert "no prediction in the range" in shop.fails(Refused, "build", "--as-of", shop.moment(3), "--window", "1us")


def test_terms_with_mistakes_are_all_named(shop: Shop) -> None:
    settings = shop.place.folder("phishing") / "pipeline.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("adhoc: {standard: 1h, keep: 2h}", "adhoc: {standard: 3h, keep: 2h}\n  other: {}"))
    told = shop.fails(Misconfigured, "retain")
    settings.write_text(text)
    assert "other" in told
    assert "shorter than 'standard'" in told
