"""The command line's verbs over what was done, and for erasing a person: audit show, audit verify, journal erase."""

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from journal.clock import format_time, parse_time
from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.service_commands import principal, why_option

if TYPE_CHECKING:
    from journal.audit import Audited
    from journal.erasure import Erasure

_SUBJECT_ID = re.compile(r"[0-9a-f]{32}")
_SHOW = "show"
_STDIN = "-"
_HOME = "-"


class Moment(click.ParamType[int]):
    """A time with its offset from UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Microseconds."""
        try:
            return value if isinstance(value, int) else parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Shown(click.Group):
    """A group whose verb may be left out: ``audit flights`` is ``audit show flights``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else [_SHOW, *args])


@click.group(cls=Shown)
def audit() -> None:
    """Who did what, when, why, and what became of it."""


@audit.command(_SHOW)
@pipeline_argument
@click.option("--who", default="", help="Only what this principal did.")
@click.option("--object", "object_", default="", help="Only what was done to this line, job, record or subject.")
@click.option("--since", type=Moment(), help="Only from this time on, such as 2026-01-01T00:00:00Z.")
@click.option("--until", type=Moment(), help="Only before this time.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The last so many.")
@json_option
@click.pass_obj
def audit_show(
    place: Place,
    pipeline: str,
    who: str,
    object_: str,
    since: int | None,
    until: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show who did what in PIPELINE, oldest first; `-` as PIPELINE is what concerns the whole home."""
    from journal.audit import audit as ask
    from rivermill.auditing import HOME_WIDE, audit_log

    named = HOME_WIDE if pipeline == _HOME else place.existing(pipeline).pipeline
    control, _ = audit_log(place.home, named)
    rows = ask(control, named, person=who, object=object_, since=since, until=until, limit=limit)
    out.show_table([_row_facts(row, as_json) for row in rows], as_json)


@audit.command("verify")
@pipeline_argument
@json_option
@click.pass_obj
def audit_verify(place: Place, pipeline: str, as_json: bool) -> None:
    """Check PIPELINE's decisions, evidence, audit and echoes; exit 7 or 11 at the first that does not hold."""
    import msgspec

    from journal.proof import prove
    from journal.sqlite_reader import SqliteReader
    from rivermill.auditing import HOME_WIDE, audit_log
    from rivermill.wiring import control_of, verifier_of

    if pipeline == _HOME:
        control, signer = audit_log(place.home)
        proof = prove(control, HOME_WIDE, signer)
    else:
        home = place.existing(pipeline)
        journal = SqliteReader(home.journal)
        try:
            proof = prove(control_of(home), home.pipeline, verifier_of(home), journal)
        finally:
            journal.close()
    out.show_mapping({**msgspec.to_builtins(proof), "verdict": "chains, heads, echoes and signatures hold"}, as_json)


@click.command("erase")
@pipeline_argument
@click.argument("subject", default=_STDIN)
@click.option("--id", "by_id", is_flag=True, help="SUBJECT is the random id that records name.")
@click.option("--explain", is_flag=True, help="Show what is there about the person, and which models learned from it.")
@why_option
@json_option
@click.pass_obj
def erase(place: Place, pipeline: str, subject: str, by_id: bool, explain: bool, why: str, as_json: bool) -> None:
    """Destroy the key of SUBJECT in PIPELINE for good: what is sealed about that person can never be read again.

    SUBJECT is the producer's identifier of the person. Left out, it is read from standard input: on the command line it
    would stay in the shell's history. It is written nowhere. Do not name the person in the reason.
    """
    from rivermill.erasing import erase_person, explain_erasure

    given = sys.stdin.readline().rstrip("\r\n") if subject == _STDIN else subject
    if by_id and not _SUBJECT_ID.fullmatch(given):
        message = "with --id, SUBJECT is the 32 hex digits that records name"
        raise click.BadParameter(message)
    home, folder = place.existing(pipeline), place.folder(pipeline)
    if explain:
        out.show_mapping(explain_erasure(folder, home, given, by_id=by_id), as_json)
        return
    done = erase_person(folder, home, given, by_id=by_id, why=why, principal=principal())
    out.show_mapping(_erasure_facts(done, as_json), as_json)


def _row_facts(row: "Audited", as_json: bool) -> dict[str, Any]:
    facts = {
        "when": "" if row.when is None else format_time(row.when),
        "at": "" if row.at is None else format_time(row.at),
        "who": row.person,
        "action": row.action,
        "object": row.object,
        "outcome": row.outcome,
        "decision": row.decision or "",
        "why": row.why,
    }
    return {**facts, "details": row.details} if as_json else facts


def _erasure_facts(done: "Erasure", as_json: bool) -> dict[str, Any]:
    facts = {
        "erased": done.subject,
        "decision": done.decision,
        "at": format_time(done.at),
        "again": done.again,
    }
    return {**facts, **{name: fact for name, fact in done.details.items() if as_json or name != "pseudonyms"}}
