"""Going on without acknowledged records that are gone from the journal's end: as a new life, by a signed decision.

The rules:

- The decision stands in the control log before anything is changed. It names the records that are given up, both lives,
  who, and why; the new life's name is drawn there, so that an interrupted acceptance goes on where it stopped.
- Until the note of what was acknowledged is gone no owner starts: so none goes on without the decision.
- Echoes that went with the lost records come first in the new life, in order, then this one. Whoever dies before that
  leaves it to the next owner, which echoes what is missing before it does anything else.
- What else does not hold is named in the decision and stays as it is.
"""

import os
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from journal.acked import Noted, forget_acked, read_acked
from journal.control import ControlLog, Entry, append_next
from journal.errors import Corrupt, OwnedElsewhere, Refused
from journal.log import START
from journal.owner import OwnerLock
from journal.repair import put_aside
from journal.restore import Deciding, begin_new_life, checked_missing, echo_missing
from journal.segment import Segment, first_of, segment_paths
from journal.sqlite_reader import SqliteReader
from journal.verify import verify

ACTION = "accept_loss"


class AcceptedLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What was given up: the details of the decision.

    Attributes:
        incarnation: The new life.
        was: The one that the records were lost in.
        end: The last record that is still there.
        acknowledged: The last one that was acknowledged; those in between are given up.
        segment: The file that the loss begins in.
        damage: Every other place that does not hold, in words.
    """

    incarnation: str
    was: str
    end: int
    acknowledged: int
    segment: str
    damage: list[str]


def accept_loss(folder: Path, pipeline: str, *, control: Path, deciding: Deciding) -> AcceptedLoss:
    """Go on without records that were acknowledged and are gone from the end. Nobody may own the journal meanwhile.

    Args:
        folder: The journal's.
        pipeline: Whose it is.
        control: The control log's SQLite file.
        deciding: Who decides.

    Raises:
        OwnedElsewhere: Stop the owner first.
        Refused: Nothing is gone, or everything is.
        Corrupt: The control log has lost what the journal echoed, or a file cannot be read at all.
        Untrusted: A decision that would be echoed is not ours.
    """
    log = ControlLog(f"sqlite:///{control.absolute()}")
    lock = OwnerLock(folder)
    try:
        _put_empty_aside(folder)
        loss = _decided(log, folder, pipeline, deciding)
        begin_new_life(folder, loss.incarnation)
        forget_acked(folder)
    finally:
        lock.release()
    # An owner that comes first echoes it.
    with suppress(OwnedElsewhere):
        echo_missing(folder, pipeline, log, deciding.signer)
    return loss


def _put_empty_aside(folder: Path) -> None:
    """Put a last file aside that has lost all it held: an owner would take it for one that was never finished."""
    acknowledged = read_acked(folder).end
    for path in segment_paths(folder)[-1:]:
        with closing(Segment(path)) as segment:
            is_lost = segment.last_offset() is None and not segment.is_born()
        if is_lost and START < first_of(path) <= acknowledged:
            put_aside(path)


def _decided(log: ControlLog, folder: Path, pipeline: str, deciding: Deciding) -> AcceptedLoss:
    """The decision about what is gone now, made here unless it stands already."""
    noted = read_acked(folder)
    with closing(SqliteReader(folder)) as reader:
        life, end, clock = reader.incarnation, reader.end(), reader.clock
        missing = checked_missing(log, pipeline, reader, deciding.signer)
    for loss in _accepted(missing):
        if _is_interrupted(loss, noted, life, end):
            return loss
    if noted.end <= end:
        raise Refused(
            which=f"{folder}: no acknowledged record is gone from its end, which is {end}",
            fix="Run `rivermill journal verify`; `rivermill journal repair` with a backup puts back what is damaged",
        )
    if end == START:
        raise Refused(which=f"{folder}: every record is gone", fix="Restore a backup, or start anew with --fresh")
    loss = AcceptedLoss(
        incarnation=os.urandom(8).hex(),
        was=life,
        end=end,
        acknowledged=noted.end,
        segment=segment_paths(folder)[-1].name,
        damage=_other_damage(folder),
    )
    append_next(
        log,
        pipeline,
        lambda: clock,
        action=ACTION,
        subject=loss.incarnation,
        why=deciding.why,
        details=msgspec.to_builtins(loss),
        principal=deciding.principal,
        key=f"{ACTION}-{loss.incarnation}",
        signer=deciding.signer,
    )
    return loss


def _accepted(missing: list[Entry]) -> list[AcceptedLoss]:
    return [msgspec.convert(entry.details, AcceptedLoss) for entry in missing if entry.action == ACTION]


def _is_interrupted(loss: AcceptedLoss, noted: Noted, life: str, end: int) -> bool:
    """Whether this very loss was accepted by a call that did not come to its end.

    An acceptance whose own echo was lost later, with more behind it, is another one: the note is of its new life.
    """
    is_begun = life == loss.incarnation
    is_noted = noted == Noted(loss.acknowledged, loss.was)
    return loss.end == end and (is_noted if life == loss.was else is_begun and (is_noted or noted.end <= end))


def _other_damage(folder: Path) -> list[str]:
    """What does not hold besides the loss itself."""
    try:
        damage = verify(folder).damage
    except Corrupt as error:
        return [error.which]
    return [which for which in damage if not which.startswith(f"{folder}: records ")]
