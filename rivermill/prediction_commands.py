"""The command line's verbs over recorded answers: predictions show."""

import sys

import click

from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.progress_bar import progress_bar


@click.group()
def predictions() -> None:
    """Look at recorded answers, and compute them again."""


@predictions.command()
@pipeline_argument
@click.argument("which", metavar="ID|@OFFSET")
@click.option("--source", default="http", show_default=True, help="Whose id it is: the source of the question.")
@click.option("--recompute", is_flag=True, help="Compute it again from the journal and the blobs, and compare.")
@json_option
@click.pass_obj
def show(place: Place, pipeline: str, which: str, source: str, recompute: bool, as_json: bool) -> None:
    """Show one answer of PIPELINE with all that it was made from, by its question's id or its own offset.

    Exit 1 when it was computed again and is not what was recorded.
    """
    from rivermill.provenance import look_up  # noqa: PLC0415 - imports the whole service

    folder, home = place.folder(pipeline), place.existing(pipeline)
    with progress_bar("replaying", quiet=as_json or not recompute) as tell:
        facts = look_up(folder, home, which, source, recompute=recompute, tell=tell)
    is_different = recompute and facts["recomputed"]["verdict"] != "equal"
    if as_json:
        out.show_json(facts)
    else:
        features, stamps = facts.pop("features"), facts.pop("stamps")
        out.show_mapping(facts, False)
        sys.stdout.write("\n")
        out.show_mapping(features, False)
        sys.stdout.write("\n")
        rows = [{"view": view, "event_time": at and at[0], "known_at": at and at[1]} for view, at in stamps.items()]
        out.show_table(rows, False)
    if is_different:
        sys.exit(1)
