"""Erasing a person from a pipeline's home, beside whatever runs there."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from features import dataset
from journal.erasure import ACTION, Eraser, Erasure
from journal.owner_client import OwnerClient
from journal.privacy import KeyTable
from journal.sqlite_reader import SqliteReader
from journal.trail import Trail, trail_of
from rivermill.auditing import Auditing
from rivermill.pipeline import load_intake
from rivermill.settings import Home
from rivermill.wall import wall_now
from rivermill.wiring import control_of, signer_of


def erase_person(folder: Path, home: Home, person: str, *, by_id: bool, why: str, principal: str) -> Erasure:
    """Erase a person, and write down who asked for it; see `journal.erasure.Eraser.erase`.

    Args:
        folder: The pipeline's folder.
        home: Its home.
        person: The producer's identifier, or the subject's random id.
        by_id: Whether it is the id.
        why: The reason.
        principal: Who asks.
    """
    with _eraser(folder, home) as (eraser, follow):
        auditing = Auditing(home.root, wall_now)
        with auditing.attempt(home.pipeline, person=principal, action=ACTION, object="", why=why) as attempt:
            subject = person if by_id else eraser.find(person)
            attempt.object = subject
            done = eraser.erase(subject, why=why, principal=principal, follow=follow)
            attempt.decision = done.decision
        return done


def explain_erasure(folder: Path, home: Home, person: str, *, by_id: bool) -> dict[str, Any]:
    """What is there about a person, and what learned from it; changes nothing."""
    with _eraser(folder, home) as (eraser, follow):
        return msgspec.to_builtins(follow(person if by_id else eraser.find(person)))  # type: ignore[no-any-return]


@contextmanager
def _eraser(folder: Path, home: Home) -> Iterator[tuple[Eraser, Any]]:
    rules = load_intake(folder)
    owner = OwnerClient(home.socket)
    with closing(SqliteReader(home.journal)) as journal, closing(KeyTable(home.keys / "subjects.sqlite")) as keys:

        def follow(subject: str) -> Trail:
            ranges = {made.version: made.through for made in dataset.versions(home.datasets)}
            return trail_of(journal, subject, rules.contracts, ranges, journal.begins)

        eraser = Eraser(
            pipeline=home.pipeline,
            keys=keys,
            control=control_of(home),
            signer=signer_of(home),
            clock=lambda: journal.clock,
            land=owner.offer,
        )
        with closing(owner):
            yield eraser, follow
