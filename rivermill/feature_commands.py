"""The verbs about feature views: what there is, what it says, how fresh it is, and whether it can be trusted."""

import sys
from typing import TYPE_CHECKING, Any

import click

from rivermill import console_output as out
from rivermill.audit_commands import Moment
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.progress_bar import progress_bar

if TYPE_CHECKING:
    from rivermill.feature_catalog import Catalog


view_argument = click.argument("view")
keys_argument = click.argument("keys", nargs=-1, metavar="KEY=VALUE...")


@click.group()
def features() -> None:
    """Look at feature views and their values, and judge them."""


@features.command("list")
@pipeline_argument
@click.option("--search", "text", default="", help="Only views that hold every one of these words somewhere.")
@json_option
@click.pass_obj
def list_(place: Place, pipeline: str, text: str, as_json: bool) -> None:
    """List the views of PIPELINE: trust, owner, keys, sources, what is held, which lines use them."""
    out.show_table(_catalog(place, pipeline).table(text), as_json)


@features.command()
@pipeline_argument
@click.argument("words", nargs=-1, required=True)
@json_option
@click.pass_obj
def search(place: Place, pipeline: str, words: tuple[str, ...], as_json: bool) -> None:
    """Find the views of PIPELINE that hold all WORDS, in names, descriptions, owners, features, streams or users."""
    out.show_table(_catalog(place, pipeline).table(" ".join(words)), as_json)


@features.command()
@pipeline_argument
@view_argument
@json_option
@click.pass_obj
def show(place: Place, pipeline: str, view: str, as_json: bool) -> None:
    """Show one VIEW: its keys, fields in words, policy, what is held of it, and the lines that use it."""
    facts = _catalog(place, pipeline).show(view)
    if as_json:
        out.show_json(facts)
        return
    fields, meaning, users = facts.pop("fields"), facts.pop("meaning"), facts.pop("users")
    out.show_mapping(facts, False)
    sys.stdout.write("\n")
    out.show_table([{"feature": name, "type": kind, "is": meaning[name]} for name, kind in fields.items()], False)
    if users:
        sys.stdout.write("\n")
        out.show_table(users, False)


@features.command()
@pipeline_argument
@view_argument
@keys_argument
@json_option
@click.pass_obj
def get(place: Place, pipeline: str, view: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Get the newest row of one entity of VIEW, with its stamps: features get flights weather origin=JFK."""
    from rivermill.feature_rows import newest_row

    out.show_mapping(newest_row(place.folder(pipeline), place.home_of(pipeline), view, keys), as_json)


@features.command()
@pipeline_argument
@view_argument
@keys_argument
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=10, show_default=True, help="How many rows.")
@json_option
@click.pass_obj
def history(place: Place, pipeline: str, view: str, keys: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show the last rows of one entity of VIEW, oldest first: what it was worth when."""
    from rivermill.feature_rows import earlier_rows

    out.show_table(earlier_rows(place.folder(pipeline), place.existing(pipeline), view, keys, limit), as_json)


@features.command()
@pipeline_argument
@json_option
@click.pass_obj
def freshness(place: Place, pipeline: str, as_json: bool) -> None:
    """Show how far the rows of each view of PIPELINE reach, and how many entities are past their TTL."""
    rows = _catalog(place, pipeline).freshness()
    out.show_table(rows if as_json else [{**row, "behind": _words(row["behind"])} for row in rows], as_json)


@features.command()
@pipeline_argument
@click.option("--dataset", "version", default="", help="Compare with this dataset version, not with the champion's.")
@json_option
@click.pass_obj
def drift(place: Place, pipeline: str, version: str, as_json: bool) -> None:
    """Compare the features of PIPELINE's recent predictions with what its champion was trained on.

    Exit 1 when the verdict is that they drifted.
    """
    from rivermill.feature_drift import as_facts, drift_of

    compared = drift_of(place.folder(pipeline), place.existing(pipeline), version)
    facts = as_facts(compared)
    if as_json:
        out.show_json(facts)
    else:
        table, count = facts.pop("features"), len(facts["drifted"])
        out.show_mapping({**facts, "drifted": f"{count}: {compared.drift.reason}" if count else "none"}, False)
        sys.stdout.write("\n")
        out.show_table([{**row, "why": "; ".join(row["why"]) or "-"} for row in table], False)
    if compared.drift.verdict == "drifted":
        sys.exit(1)


@features.command()
@pipeline_argument
@click.option("--since", type=Moment(), help="Only predictions recorded at this journal time or later.")
@click.option("--until", type=Moment(), help="Only predictions recorded before this journal time.")
@json_option
@click.pass_obj
def skew(place: Place, pipeline: str, since: int | None, until: int | None, as_json: bool) -> None:
    """Rebuild PIPELINE's features from its journal and compare every prediction with them, bit for bit.

    Exit 1 when anything differs, or when nothing could be compared of what was served. How old served rows were is
    freshness, and no mismatch.
    """
    from features.skew import Range
    from rivermill.feature_skew import as_facts, skew_of

    with progress_bar("replaying", quiet=as_json) as progress:
        found = skew_of(place.folder(pipeline), place.existing(pipeline), Range(since, until), progress)
    facts = as_facts(found)
    if as_json:
        out.show_json(facts)
    else:
        _show_skew(facts)
    if found.is_void:
        sys.stderr.write("nothing was compared: no view that was served is declared any more as it was then\n")
    if found.mismatches or found.is_void:
        sys.exit(1)


def _show_skew(facts: dict[str, Any]) -> None:
    views, examples = facts.pop("views"), facts.pop("examples")
    out.show_mapping(facts, False)
    sys.stdout.write("\n")
    rows = [{**view, "freshness": {name: _words(span) for name, span in view["freshness"].items()}} for view in views]
    out.show_table(rows, False)
    if examples:
        sys.stdout.write("\nthe first of them\n")
        out.show_table(examples, False)


def _words(span: int | None) -> str:
    from rivermill.spans import rough_span

    return "-" if span is None else rough_span(span)


def _catalog(place: Place, pipeline: str) -> "Catalog":
    from rivermill.feature_catalog import Catalog

    return Catalog(place.folder(pipeline), place.home_of(pipeline))
