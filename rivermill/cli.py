"""The command line. Heavy imports wait inside the commands, so that ``--help`` answers at once.

Exit codes: 0 done · 1 a check failed · 2 wrong usage · 3 and up: one per error class, see ``journal.errors``.
"""

import sys
from pathlib import Path
from typing import Any

import click

from journal.errors import RivermillError
from rivermill import console_output as out
from rivermill.audit_commands import audit, erase
from rivermill.contract_commands import contracts
from rivermill.dataset_commands import dataset
from rivermill.feature_commands import features
from rivermill.journal_commands import journal
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.prediction_commands import predictions
from rivermill.quarantine_commands import quality, quarantine
from rivermill.service_commands import register
from rivermill.settings import DEFAULT_HOME, HOME_VARIABLE, PIPELINES_VARIABLE
from rivermill.skip_command import skip
from rivermill.view_commands import apply, backfill, plan


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar=HOME_VARIABLE,
    default=DEFAULT_HOME,
    show_default=True,
    show_envvar=True,
    help="Where all state lives.",
)
@click.option(
    "--pipelines",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=PIPELINES_VARIABLE,
    show_envvar=True,
    help="Where pipelines are looked up by name.  [default: the shipped configs/]",
)
@click.pass_context
def rivermill(context: click.Context, home: Path, pipelines: Path | None) -> None:
    """Models that stay right while the world changes: events in, fresh features, answers, learning exactly once."""
    from rivermill.settings import configs_folder

    context.obj = Place(home, pipelines or configs_folder())


@rivermill.command()
@click.option("--weeks", type=click.IntRange(1, 53), default=10, show_default=True, help="How much of the recording.")
@click.option("--pipeline", default="flights", show_default=True, help="Which pipeline's recording to play.")
@click.option("--fresh", is_flag=True, help="Delete this pipeline's state first.")
@json_option
@click.pass_obj
def demo(place: Place, weeks: int, pipeline: str, fresh: bool, as_json: bool) -> None:
    """Play recorded events through journal, features, answers and learning; resume if it was interrupted."""
    from rivermill.demo import run_demo

    figures = run_demo(place.folder(pipeline), place.home_of(pipeline), weeks, fresh=fresh, quiet=as_json)
    out.show_run(figures, as_json, place.home, place.port)


@rivermill.command()
@pipeline_argument
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def play(place: Place, pipeline: str, file: Path, as_json: bool) -> None:
    """Play FILE (JSON lines of CloudEvents) into PIPELINE; the same file again goes on where it stopped."""
    from rivermill.demo import run_file

    figures = run_file(place.folder(pipeline), place.home_of(pipeline), file, quiet=as_json)
    out.show_run(figures, as_json, place.home, place.port)


@rivermill.command()
@json_option
@click.pass_obj
def status(place: Place, as_json: bool) -> None:
    """Say where every pipeline of this home stands."""
    from rivermill.status import status_of

    out.show_status(status_of(place.home), as_json)


@rivermill.command()
@click.option("--pipeline", "names", multiple=True, help="Only these pipelines (default: all in the home).")
@json_option
@click.pass_obj
def doctor(place: Place, names: tuple[str, ...], as_json: bool) -> None:
    """Check this machine, the home and every pipeline; exit 1 if anything is wrong, with what to do."""
    from rivermill.doctor import examine

    findings = examine(place.home, place.folder, names)
    out.show_findings(findings, as_json)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


journal.add_command(erase)
journal.add_command(quarantine)
journal.add_command(skip)
rivermill.add_command(audit)
rivermill.add_command(contracts)
rivermill.add_command(dataset)
for verb in (plan, apply, backfill):
    features.add_command(verb)
rivermill.add_command(features)
rivermill.add_command(journal)
rivermill.add_command(predictions)
rivermill.add_command(quality)
register(rivermill)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; an error of ours is a sentence on standard error and its own exit code."""
    try:
        return rivermill.main(arguments, standalone_mode=True)
    except RivermillError as error:
        out.show_error(error)
        sys.exit(error.exit_code)
