"""The verbs by which views come to a journal that is running: features plan, apply, backfill."""
# A command imports what it needs when it runs, so that --help does not pay for Feast.
# ruff: noqa: PLC0415

import sys

import click
import msgspec

from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.progress_bar import progress_bar
from rivermill.service_commands import principal, why_option


@click.command()
@pipeline_argument
@json_option
@click.pass_obj
def plan(place: Place, pipeline: str, as_json: bool) -> None:
    """Show what PIPELINE's views.py would change: views unchanged, staged, new, of a new version, changed, removed.

    Exit 1 when a view was changed or removed that the journal computes.
    """
    from rivermill.pipeline import load_pipeline
    from rivermill.view_backfill import changes_of

    changes = changes_of(load_pipeline(place.folder(pipeline)), place.existing(pipeline))
    rows = [msgspec.to_builtins(change) for change in changes]
    out.show_table(rows if as_json else [{name: row[name] for name in row if name != "fix"} for row in rows], as_json)
    refused = [change for change in changes if change.is_refused]
    if not as_json:
        sys.stdout.write("".join(f"\n{change.view} was {change.what}. {change.fix}.\n" for change in refused))
    if refused:
        sys.exit(1)


@click.command()
@pipeline_argument
@why_option
@json_option
@click.pass_obj
def apply(place: Place, pipeline: str, why: str, as_json: bool) -> None:
    """Stage the views of PIPELINE's views.py that are new, and register them with Feast. Again changes nothing."""
    from rivermill.view_backfill import stage

    facts = stage(place.folder(pipeline), place.existing(pipeline), why=why, principal=principal())
    out.show_mapping(facts if facts["staged"] or as_json else {"staged": "nothing: no view is new"}, as_json)


@click.command()
@pipeline_argument
@click.argument("views", nargs=-1)
@json_option
@click.pass_obj
def backfill(place: Place, pipeline: str, views: tuple[str, ...], as_json: bool) -> None:
    """Fill PIPELINE's staged views from its journal, while it runs, and publish them; all of them, or those named.

    A run that was interrupted goes on where it was.
    """
    from rivermill.view_backfill import backfill as fill

    home = place.existing(pipeline)
    with progress_bar("filling", quiet=as_json) as progress:
        rows = fill(place.folder(pipeline), home, views, progress, principal=principal())
    if not as_json and not rows:
        sys.stdout.write("nothing is staged\n")
        return
    out.show_table(rows, as_json)
