"""The command line's verbs for what is bad: events in quarantine, and quality rules in breach."""

from pathlib import Path
from typing import BinaryIO

import click

from journal.settlement import Discard, Fix, Order, Release, State
from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.service_commands import key_option, principal

id_argument = click.argument("quarantine_id")
why_option = click.option("--why", required=True, help="The reason, kept in the journal.")
advance_option = click.option(
    "--advance", is_flag=True, help="Allow it to move the clock by more than the contract's largest gap."
)


@click.group()
def quarantine() -> None:
    """Events that broke their contract, kept whole until somebody decides."""


@quarantine.command("list")
@pipeline_argument
@click.option("--stream", default="", help="Only of this stream.")
@click.option("--reason", default="", help="Only those whose reason holds these words.")
@click.option(
    "--state",
    type=click.Choice([*(state.value for state in State), "all"]),
    default=State.WAITING.value,
    show_default=True,
    help="Only those in this state.",
)
@json_option
@click.pass_obj
def quarantine_list(place: Place, pipeline: str, stream: str, reason: str, state: str, as_json: bool) -> None:
    """List what waits in PIPELINE's quarantine: since when, from whom, why."""
    from rivermill.quarantine_desk import held_rows

    wanted = "" if state == "all" else state
    out.show_table(held_rows(place.home_of(pipeline), stream=stream, reason=reason, state=wanted), as_json)


@quarantine.command("counts")
@pipeline_argument
@json_option
@click.pass_obj
def quarantine_counts(place: Place, pipeline: str, as_json: bool) -> None:
    """Count PIPELINE's quarantined events by state; the states add up to all."""
    from rivermill.quarantine_desk import held_counts

    out.show_mapping(held_counts(place.home_of(pipeline)), as_json)


@quarantine.command("show")
@pipeline_argument
@id_argument
@click.option("--reveal", is_flag=True, help="Show personal fields too; the audit keeps who asked, and why.")
@click.option("--why", default="", help="The reason; needed with --reveal.")
@json_option
@click.pass_obj
def quarantine_show(place: Place, pipeline: str, quarantine_id: str, reveal: bool, why: str, as_json: bool) -> None:
    """Show one quarantined event with its reason, its envelope and its data, personal fields masked."""
    from rivermill.quarantine_desk import held_event

    if reveal and not why:
        raise click.UsageError("--reveal needs --why")  # noqa: EM101
    home = place.existing(pipeline)
    out.show_mapping(
        held_event(place.folder(pipeline), home, quarantine_id, reveal=reveal, why=why, principal=principal()), as_json
    )


@quarantine.command("release")
@pipeline_argument
@id_argument
@advance_option
@why_option
@json_option
@click.pass_obj
def quarantine_release(place: Place, pipeline: str, quarantine_id: str, advance: bool, why: str, as_json: bool) -> None:
    """Let a quarantined event in as it came, under its own id, by a decision that the journal echoes."""
    _settle(place, pipeline, Release(quarantine_id, why, principal(), advance), as_json)


@quarantine.command("fix")
@pipeline_argument
@id_argument
@click.option(
    "--data", type=click.File("rb"), help="A file with the corrected data as JSON, all of it; - reads it here."
)
@click.option("--time", default="", help="The corrected time, such as 2013-01-01T05:00:00Z.")
@advance_option
@why_option
@json_option
@click.pass_obj
def quarantine_fix(
    place: Place,
    pipeline: str,
    quarantine_id: str,
    data: BinaryIO | None,
    time: str,
    advance: bool,
    why: str,
    as_json: bool,
) -> None:
    """Let a corrected event in, under the id and source of the one that waits; its contract is checked again."""
    given = b"" if data is None else data.read()
    if not given.strip() and not time:
        raise click.UsageError("Nothing is corrected: give --data or --time")  # noqa: EM101
    _settle(place, pipeline, Fix(quarantine_id, why, principal(), given, time, advance), as_json)


@quarantine.command("discard")
@pipeline_argument
@id_argument
@why_option
@json_option
@click.pass_obj
def quarantine_discard(place: Place, pipeline: str, quarantine_id: str, why: str, as_json: bool) -> None:
    """Give a quarantined event up: it stays readable, and never enters."""
    _settle(place, pipeline, Discard(quarantine_id, why, principal()), as_json)


@click.group()
def quality() -> None:
    """Quality rules: what is in breach, and what that stops."""


@quality.command("list")
@pipeline_argument
@click.option("--all", "everything", is_flag=True, help="Every alert there ever was, not only those that stand.")
@json_option
@click.pass_obj
def quality_list(place: Place, pipeline: str, everything: bool, as_json: bool) -> None:
    """List the alerts of PIPELINE that stand."""
    from rivermill.quarantine_desk import alert_rows

    out.show_table(alert_rows(place.home_of(pipeline), everything=everything), as_json)


@quality.command("resume")
@pipeline_argument
@click.argument("rule")
@why_option
@key_option
@json_option
@click.pass_obj
def quality_resume(place: Place, pipeline: str, rule: str, why: str, key: str, as_json: bool) -> None:
    """Lift the alert of RULE, so that what it stops goes on."""
    from rivermill.quarantine_desk import resume

    out.show_mapping(resume(place.existing(pipeline), rule, why=why, principal=principal(), key=key), as_json)


def _settle(place: Place, pipeline: str, order: Order, as_json: bool) -> None:
    from rivermill.quarantine_desk import settle

    folder: Path = place.folder(pipeline)
    out.show_mapping(settle(folder, place.existing(pipeline), order), as_json)
