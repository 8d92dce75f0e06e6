"""The command line's verbs for a journal's storage: tail, verify, backup, restore, repair, retain, archive."""

import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.service_commands import principal

if TYPE_CHECKING:
    from journal.sealed import Sealed

_SHOWN_AFTER = 1.0
_UNSEALED = "Put the key table back that it was sealed under; the journal itself is whole"
explain_option = click.option("--explain", is_flag=True, help="Print what this would do, and stop (the default).")
apply_option = click.option("--apply", is_flag=True, help="Do it.")


@click.group()
def journal() -> None:
    """Read the journal, check it, back it up and mend it, and work on its quarantine."""


class Progress:
    """One line on standard error that says how far something is, once it has taken a second."""

    def __init__(self, what: str) -> None:
        self._what, self._since, self._shown = what, time.monotonic(), -1

    def __call__(self, done: float, of: float) -> None:
        """Show a share when it has grown by a hundredth."""
        share = int(100 * done / of) if of else 100
        if share != self._shown and time.monotonic() - self._since > _SHOWN_AFTER:
            self._shown = share
            sys.stderr.write(f"\r{self._what} {share} %")
            sys.stderr.flush()

    def close(self) -> None:
        """End the line, if there is one."""
        if self._shown >= 0:
            sys.stderr.write("\n")


@journal.command("tail")
@pipeline_argument
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="How many records.")
@click.option("--from", "start", type=click.IntRange(0, 2**62), help="Start at this offset instead of at the end.")
@click.option("--kind", help="Only records of this kind.")
@click.option("--stored", is_flag=True, help="As they were written, not as today's contracts read them.")
@json_option
@click.pass_obj
def tail(
    place: Place, pipeline: str, count: int, start: int | None, kind: str | None, stored: bool, as_json: bool
) -> None:
    """Print records of PIPELINE's journal, the last ones first asked for."""
    from journal.upcast import as_stored
    from rivermill.inspection import lift_of
    from rivermill.inspection import tail as records

    home = place.existing(pipeline)
    lift = as_stored if stored else lift_of(place.folder(pipeline))
    out.show_records(records(home, count, start, kind, lift), as_json)


@journal.command("verify")
@pipeline_argument
@json_option
@click.pass_obj
def verify(place: Place, pipeline: str, as_json: bool) -> None:
    """Check every record of PIPELINE's journal, segments in blobs included, and open what is sealed.

    Exit 7 and name the places if one fails; what was erased is counted, and does not.
    """
    from journal.errors import Corrupt
    from journal.verify import verify as check
    from rivermill.inspection import sealed_in

    home = place.existing(pipeline)
    progress = Progress("records checked:")
    found = check(home.journal, progress=progress)
    progress.close()
    facts = {name: value for name, value in msgspec.to_builtins(found).items() if name not in {"damage", "fix"}}
    if found.begins:
        facts["no_longer_provable"] = f"records 0 to {found.begins - 1}, by retention"
    damage, fix = found.damage, found.fix
    if not damage:
        sealed = sealed_in(home, found.begins)
        facts |= _facts_of(sealed)
        damage, fix = _damage_of(sealed), _UNSEALED
    if not damage:
        out.show_mapping({**facts, "verdict": "every checksum holds"}, as_json)
        return
    if as_json:
        out.show_json({**facts, "verdict": "damaged", "damage": damage, "fix": fix})
    raise Corrupt(which=f"{len(damage)} place(s): {'; '.join(damage[:10])}", fix=fix)


def _facts_of(sealed: "Sealed | None") -> dict[str, Any]:
    if sealed is None:
        return {"sealed": "not checked: there is no key table"}
    return {"sealed": sealed.equal, "erased": sealed.erased}


def _damage_of(sealed: "Sealed | None") -> list[str]:
    different = [] if sealed is None else sealed.different
    return [f"record {offset}: what is sealed does not open, or says something else" for offset in different]


@journal.command("backup")
@pipeline_argument
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--with-keys", is_flag=True, help="Also the key table: the backup can then read what is sealed.")
@json_option
@click.pass_obj
def backup(place: Place, pipeline: str, target: Path, with_keys: bool, as_json: bool) -> None:
    """Back PIPELINE's journal and control log up into the empty folder TARGET, also while it runs."""
    from journal.backup import back_up

    home = place.existing(pipeline)
    progress = Progress("copied of this file:")
    manifest = back_up(
        home.journal,
        target,
        control=home.folder / "control.sqlite",
        keys=home.keys / "subjects.sqlite" if with_keys else None,
        progress=lambda _, share: progress(share, 1),
    )
    progress.close()
    facts: dict[str, Any] = msgspec.to_builtins(manifest)
    out.show_mapping({**facts, "files": len(facts["files"]), "target": str(target)}, as_json)


@journal.command("restore")
@pipeline_argument
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--why", default="", help="The reason, kept in the control log and the journal.")
@json_option
@click.pass_obj
def restore(place: Place, pipeline: str, source: Path, why: str, as_json: bool) -> None:
    """Put the backup in SOURCE in place as a new life of PIPELINE's journal; its home must be empty."""
    from rivermill.restoring import put_back

    out.show_mapping(put_back(place.home_of(pipeline), source, why=why, principal=principal()), as_json)


@journal.command("repair")
@pipeline_argument
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--accept-loss", is_flag=True, help="Instead: go on without acknowledged records that are gone.")
@click.option("--why", default="", help="The reason; needed with --accept-loss, which is a signed decision.")
@json_option
@click.pass_obj
def repair(place: Place, pipeline: str, source: Path | None, accept_loss: bool, why: str, as_json: bool) -> None:
    """Put damaged segments of PIPELINE's journal back from the backup in SOURCE; stop the service first."""
    from journal import repair as mending

    home = place.existing(pipeline)
    if (source is None) != accept_loss or accept_loss != bool(why):
        message = "Name either a backup, or --accept-loss with --why."
        raise click.UsageError(message)
    if source is None:
        from rivermill.restoring import give_up

        out.show_mapping(give_up(home, why=why, principal=principal()), as_json)
        return
    out.show_table([msgspec.to_builtins(done) for done in mending.repair(home.journal, source)], as_json)


@journal.command("retain")
@pipeline_argument
@explain_option
@apply_option
@json_option
@click.pass_obj
def retain(place: Place, pipeline: str, explain: bool, apply: bool, as_json: bool) -> None:
    """Let go of PIPELINE's old segments: below every fold, and only as long ago as its contracts allow."""
    from journal.checkpoint import positions_in
    from journal.log import START
    from journal.retention import apply_retention, longest, plan_retention
    from rivermill.auditing import Auditing
    from rivermill.pipeline import load_intake
    from rivermill.wall import wall_now
    from rivermill.wiring import FOLDS

    if explain and apply:
        message = "Either --explain or --apply."
        raise click.UsageError(message)
    home, rules = place.existing(pipeline), load_intake(place.folder(pipeline))
    plan = plan_retention(
        home.journal,
        # A fold whose file is gone is built again from the beginning, so it has read nothing.
        readers=dict.fromkeys(FOLDS, START) | positions_in(home.fold("x").parent),
        keeps=longest(contract.retention for contract in rules.contracts.values()),
        remembers=rules.dedup_window,
    )
    if apply:
        leaving, auditing = f"records {plan.begins} to {plan.then - 1}", Auditing(home.root, wall_now)
        with (
            auditing.attempt(home.pipeline, person=principal(), action="retain", object=leaving)
            if plan.then > plan.begins
            else nullcontext()
        ):
            apply_retention(home.journal, plan)
    _show(plan.explain(), {**msgspec.to_builtins(plan), "applied": apply}, as_json)


@journal.command("archive")
@pipeline_argument
@json_option
@click.pass_obj
def archive(place: Place, pipeline: str, as_json: bool) -> None:
    """Move PIPELINE's sealed segments into blobs, except those whose ids are still looked up."""
    from contextlib import closing

    from journal.archive import seal_to_blobs
    from journal.blobs import DirectoryBlobs
    from journal.sqlite_reader import SqliteReader
    from rivermill.pipeline import load_intake

    home, window = place.existing(pipeline), load_intake(place.folder(pipeline)).dedup_window
    with closing(SqliteReader(home.journal)) as reader:
        before = reader.clock - window
    moved = seal_to_blobs(home.journal, DirectoryBlobs(home.blobs), before=before)
    out.show_table([msgspec.to_builtins(segment) for segment in moved], as_json)


def _show(lines: list[str], facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        out.show_json(facts)
    else:
        out.show_text("".join(f"{line}\n" for line in lines), False)
