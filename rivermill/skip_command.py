"""The command line's verb over a record that a fold cannot take: journal skip."""

import click

from journal.clock import format_time
from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.service_commands import principal, why_option


@click.command("skip")
@pipeline_argument
@click.argument("fold")
@click.argument("offset", type=click.IntRange(0))
@why_option
@json_option
@click.pass_obj
def skip(place: Place, pipeline: str, fold: str, offset: int, why: str, as_json: bool) -> None:
    """Let FOLD pass over the record at OFFSET, which it died at three times, now and in every replay.

    Only the record that the fold stays before can be skipped: `/readyz` names it.
    """
    from rivermill.skipping import skip_record

    entry = skip_record(place.existing(pipeline), fold, offset, why=why, principal=principal())
    facts = {"fold": fold, "offset": offset, "decision": entry.sequence, "at": format_time(entry.at), "why": entry.why}
    out.show_mapping(facts, as_json)
