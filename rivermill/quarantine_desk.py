"""The quarantine and the quality rules of a home, for the command line: beside a live service, and without one."""

import contextlib
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from journal.clock import format_time
from journal.contract import load_contracts
from journal.control import Entry, echo_of
from journal.errors import OwnerDown, UnknownName
from journal.held import Held, count_held, find_held, list_held, shown
from journal.owner_client import OwnerClient
from journal.privacy import KeyTable
from journal.quality import RESUME, alerts_in, standing
from journal.quarantine import Quarantine
from journal.settlement import Order, State, action_of
from journal.sqlite_reader import SqliteReader
from rivermill.auditing import Auditing
from rivermill.inspection import reading
from rivermill.settings import Home
from rivermill.wall import wall_now
from rivermill.wiring import control_of, open_run, signer_of

Facts = dict[str, Any]


def held_rows(home: Home, *, stream: str, reason: str, state: str) -> list[Facts]:
    """A row per quarantined event, oldest first.

    Args:
        home: Whose.
        stream: Only of this stream; of all when empty.
        reason: Only those whose reason holds these words, in any case.
        state: Only those in this state; all when empty.
    """
    with reading(home) as journal:
        return [
            _row(held)
            for held in list_held(journal)
            if stream in ("", held.stream) and reason.lower() in held.reason.lower() and state in ("", held.state)
        ]


def held_counts(home: Home) -> dict[str, int]:
    """How many events were quarantined, and how many are in each state; raises `UnknownName`."""
    with reading(home) as journal:
        return count_held(journal)


def held_event(folder: Path, home: Home, quarantine_id: str, *, reveal: bool, why: str, principal: str) -> Facts:
    """One quarantined event with its reason, its envelope and its data, personal fields masked unless revealed.

    A reveal is written down in the audit, whether it succeeds or not. Of an erased one there is no event to show.

    Raises:
        UnknownName: Nothing of that id is in quarantine, or its stream has no contract any more.
        Refused: It is to be revealed, and the person whom it is about was erased.
    """
    if not reveal:
        return _event(folder, home, quarantine_id, reveal=False)
    auditing = Auditing(home.root, wall_now)
    with auditing.attempt(home.pipeline, person=principal, action="reveal", object=quarantine_id, why=why):
        return _event(folder, home, quarantine_id, reveal=True)


def _event(folder: Path, home: Home, quarantine_id: str, *, reveal: bool) -> Facts:
    with reading(home) as journal, closing(KeyTable(home.keys / "subjects.sqlite")) as keys:
        record = find_held(journal, quarantine_id)
        contract = load_contracts(folder / "contracts").get(record.stream)
        if contract is None:
            raise UnknownName(which=f"the stream of {quarantine_id}", fix="Add its contract to the pipeline")
        held = next(held for held in list_held(journal) if held.id == quarantine_id)
        is_gone = held.state is State.ERASED and not reveal
        event = None if is_gone else shown(contract, Quarantine(keys).kept(record), reveal=reveal)
    return {**_row(held), "event": event}


def settle(folder: Path, home: Home, order: Order) -> Facts:
    """End a quarantined event's wait, and write down who did.

    Raises:
        RivermillError: As `journal.intake.Intake.settle`.
    """
    auditing, action = Auditing(home.root, wall_now), action_of(order)
    with auditing.attempt(
        home.pipeline, person=order.principal, action=action, object=order.quarantine_id, why=order.why
    ):
        return _carried_out(folder, home, order)


def _carried_out(folder: Path, home: Home, order: Order) -> Facts:
    """Through the journal's owner where one runs, else through every fold here."""
    if home.socket.exists():
        with contextlib.suppress(OwnerDown), closing(OwnerClient(home.socket)) as owner:
            done = owner.settle(order)
            return _settled(order, done.state, done.id, done.stream, done.offset)
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415 - pays for Feast

    with closing(open_run(load_pipeline(folder), home)) as run:
        state, record = run.intake.settle(order)
        run.lockstep.catch_up()
        return _settled(order, state, record.id, record.stream, record.offset)


def _settled(order: Order, state: str, event: str, stream: str, offset: int) -> Facts:
    facts = {"quarantine id": order.quarantine_id, "state": str(state), "offset": offset}
    return facts if state == State.DISCARDED else {**facts, "event": event, "stream": stream}


def alert_rows(home: Home, *, everything: bool) -> Sequence[Facts]:
    """A row per alert that stands, by rule; with ``everything``, a row per alert there ever was, in order."""
    with reading(home) as journal:
        found = [alert for _, alert in alerts_in(journal)] if everything else standing(journal).values()
        return [
            {
                "rule": alert.name,
                "stage": alert.stage,
                "about": f"{alert.stream}.{alert.field}" if alert.field else alert.stream,
                "metric": alert.metric,
                "measured": alert.measured,
                "most": alert.most,
                "events": alert.events,
                "begins": format_time(alert.begins),
                "ends": format_time(alert.ends),
                "stops": alert.stop and alert.is_breach,
            }
            for alert in found
        ]


def resume(home: Home, rule: str, *, why: str, principal: str, key: str) -> Facts:
    """Lift a rule's alert by a decision; with the journal's owner down it is echoed when the owner is back.

    Raises:
        UnknownName: No alert of this rule stands.
        LostRace: Somebody else decided meanwhile.
    """
    with reading(home) as journal:
        alerts = standing(journal)
        if rule not in alerts:
            known = ", ".join(sorted(alerts)) or "none"
            raise UnknownName(which=f"a standing alert of rule {rule!r}; there are: {known}", fix="Name one of them")
        entry = _decide(home, journal, rule, why, principal, key)
    with closing(OwnerClient(home.socket)) as owner:
        owner.offer(echo_of(entry))
    return {"decision": entry.sequence, "action": entry.action, "rule": rule, "why": why}


def _decide(home: Home, journal: SqliteReader, rule: str, why: str, principal: str, key: str) -> Entry:
    control, signer = control_of(home), signer_of(home)
    head = control.head(home.pipeline)
    details = {"alert": msgspec.to_builtins(standing(journal)[rule])}
    return control.append(
        home.pipeline,
        expected=head.sequence if head else 0,
        action=RESUME,
        subject=rule,
        why=why,
        details=details,
        at=journal.clock,
        principal=principal,
        key=key or f"{RESUME}-{uuid.uuid4()}",
        signer=signer,
    )


def _row(held: Held) -> Facts:
    row = {
        "id": held.id,
        "stream": held.stream,
        "at": format_time(held.at),
        "by": held.principal or "-",
        "state": str(held.state),
        "reason": held.reason,
    }
    if held.settled_at is None:
        return row
    return {**row, "settled by": held.settled_by or "-", "settled at": format_time(held.settled_at), "why": held.why}
