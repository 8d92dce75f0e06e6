"""Decisions about folds: to skip a record that a fold cannot take, and to let a rebuilt fold take over."""

from contextlib import closing
from typing import Any

from journal.control import Entry, append_next, echo_of
from journal.errors import Refused
from journal.owner_client import OwnerClient
from journal.poison import SKIP, skip_plan
from journal.rebuild import CUTOVER, Succession
from journal.sqlite_reader import SqliteReader
from rivermill.settings import Home
from rivermill.wiring import control_of, signer_of


def skip_record(home: Home, fold: str, offset: int, *, why: str, principal: str) -> Entry:
    """Decide that a fold passes over the record that it stays before, and echo that. Again is the same decision.

    Args:
        home: The pipeline's.
        fold: Which fold.
        offset: The record's.
        why: The reason.
        principal: Who decides.

    Raises:
        Refused: The fold does not stay before this record, or no reason was given.
    """
    if not why.strip():
        raise Refused(which="no reason to skip was given", fix="Say why")
    key = f"{SKIP}-{fold}-{offset}"
    known = [entry for entry in control_of(home).entries(home.pipeline) if entry.key == key]
    details = known[0].details if known else skip_plan(home.attempts, fold, offset)
    return decide(home, action=SKIP, subject=fold, details=details, key=key, why=why, principal=principal)


def cut_over(home: Home, succession: Succession, *, why: str, principal: str) -> Entry:
    """Decide that a rebuilt fold takes the place of the file that is read, and echo that. Again is the same decision.

    Raises:
        Refused: There is no successor.
    """
    details, fold = succession.plan(), succession.fold
    key = f"{CUTOVER}-{fold}-{details['count']}"
    return decide(home, action=CUTOVER, subject=fold, details=details, key=key, why=why, principal=principal)


def decide(home: Home, **decision: Any) -> Entry:
    """Append a decision about a pipeline's folds and echo it; ``decision`` is as for `journal.control.append_next`.

    Where no owner runs, the echo is made up for at the next start.
    """
    with closing(SqliteReader(home.journal)) as journal, closing(OwnerClient(home.socket)) as owner:
        entry = append_next(control_of(home), home.pipeline, lambda: journal.clock, signer=signer_of(home), **decision)
        owner.offer(echo_of(entry))
        return entry
