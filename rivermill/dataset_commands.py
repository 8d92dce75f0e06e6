"""The command line's verbs for dataset versions: build, list, show, diff, verify, retain, restore."""

from typing import TYPE_CHECKING, Any

import click
import msgspec

from journal.clock import parse_span, parse_time
from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument

if TYPE_CHECKING:
    from rivermill.datasets import Datasets

_KINDS = click.Choice(("training", "gate", "adhoc"))


@click.group()
def dataset() -> None:
    """Build and verify immutable training sets."""


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    return _parsed(parse_time, text)


def _span(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    return _parsed(parse_span, text)


def _parsed(parse: Any, text: str | None) -> int | None:
    try:
        return None if text is None else int(parse(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@dataset.command("build")
@pipeline_argument
@click.option("--as-of", metavar="TIME", callback=_moment, help="Only what the journal knew by then; default: all.")
@click.option("--window", metavar="SPAN", callback=_span, help="How far back predictions count, such as 28d.")
@click.option("--service", help="A feature service of views.py; default: the one that predictions name last.")
@click.option("--kind", type=_KINDS, default="adhoc", show_default=True, help="What it is for: decides how it is kept.")
@click.option("--explain", is_flag=True, help="Print what a build would read, and stop.")
@json_option
@click.pass_obj
def build(
    place: Place,
    pipeline: str,
    as_of: int | None,
    window: int | None,
    service: str | None,
    kind: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Build the dataset version of what PIPELINE has joined; the same rows again are the same version."""
    from rivermill.datasets import Wanted

    wanted = Wanted(as_of=as_of, window=window, service=service, kind=kind)
    versions = _datasets(place, pipeline)
    _show(versions.plan(wanted) if explain else versions.build(wanted), as_json)


@dataset.command("list")
@pipeline_argument
@json_option
@click.pass_obj
def list_(place: Place, pipeline: str, as_json: bool) -> None:
    """List the dataset versions of PIPELINE, with their age in journal time, size and how they are kept."""
    out.show_table(_datasets(place, pipeline).table(), as_json)


@dataset.command("show")
@pipeline_argument
@click.argument("version")
@json_option
@click.pass_obj
def show(place: Place, pipeline: str, version: str, as_json: bool) -> None:
    """Show the manifest of a dataset VERSION, how it is kept, and which lines were fitted on it."""
    _show(_datasets(place, pipeline).show(version), as_json)


@dataset.command("diff")
@pipeline_argument
@click.argument("one")
@click.argument("other")
@json_option
@click.pass_obj
def diff(place: Place, pipeline: str, one: str, other: str, as_json: bool) -> None:
    """Show what differs between the versions ONE and OTHER: how they were made, columns, rows and values."""
    out.show_mapping(_datasets(place, pipeline).diff(one, other), as_json)


@dataset.command("verify")
@pipeline_argument
@click.argument("version")
@json_option
@click.pass_obj
def verify(place: Place, pipeline: str, version: str, as_json: bool) -> None:
    """Rebuild VERSION from the journal and compare, row by row if need be, with its file and its manifest's hash.

    Exit 7 where one differs, 22 where the journal holds no longer what it was made from.
    """
    out.show_mapping(_datasets(place, pipeline).verify(version), as_json)


@dataset.command("restore")
@pipeline_argument
@click.argument("version")
@json_option
@click.pass_obj
def restore(place: Place, pipeline: str, version: str, as_json: bool) -> None:
    """Make the rows of VERSION ready to read again, from the archive or from the journal."""
    _show(_datasets(place, pipeline).restore(version), as_json)


@dataset.command("retain")
@pipeline_argument
@click.option("--explain", is_flag=True, help="Print what this would do, and stop (the default).")
@click.option("--apply", is_flag=True, help="Do it.")
@json_option
@click.pass_obj
def retain(place: Place, pipeline: str, explain: bool, apply: bool, as_json: bool) -> None:
    """Archive PIPELINE's old dataset versions, and let go of the rows of older ones, as their kinds' terms say."""
    if explain and apply:
        message = "Either --explain or --apply."
        raise click.UsageError(message)
    steps = _datasets(place, pipeline).retain(apply=apply)
    out.show_table([msgspec.to_builtins(step) for step in steps], as_json)


def _datasets(place: Place, pipeline: str) -> "Datasets":
    from rivermill.datasets import Datasets

    return Datasets(place.folder(pipeline), place.existing(pipeline))


def _show(facts: dict[str, Any], as_json: bool) -> None:
    """For people columns and checks in short; JSON has them whole."""
    if as_json or "schema" not in facts:
        out.show_mapping(facts, as_json)
        return
    shorter = {name: value for name, value in facts.items() if name not in {"schema", "digests"}}
    quality = [f"{held['rule']}: {held['values']} value(s)" for held in facts["quality"]]
    views = [f"{view} ({facts['digests'].get(view, 'unknown')[:12]})" for view in facts["views"]]
    out.show_mapping({**shorter, "views": views, "quality": quality, "columns": len(facts["schema"])}, False)
