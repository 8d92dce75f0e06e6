"""Where the audit is written: a pipeline's in its control log, what concerns the whole home in one of the home's own.

A request is written down when it has ended, with its outcome. Those that are denied are bounded: a stranger who knocks
all day leaves a few rows and a count.
"""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from journal.audit import Attempt, Denials, audited
from journal.control import ControlLog
from journal.errors import NoKey, RivermillError
from registry.signing import Signer
from rivermill.access import KeyRing
from rivermill.settings import Home, pipelines_in

HOME_WIDE = ""
"""The pipeline that the home's own audit is kept under."""

NOBODY = "nobody"
"""Who asks without a key."""

_KEY_DIGITS = 8


def audit_log(root: Path, pipeline: str = HOME_WIDE) -> tuple[ControlLog, Signer]:
    """Where the audit of a pipeline is, or the home's own, and what signs it."""
    if pipeline == HOME_WIDE:
        folder = root / "access"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        return ControlLog(f"sqlite:///{(folder / 'audit.sqlite').absolute()}"), Signer.open(folder / "signing.key")
    home = Home(root, pipeline)
    return ControlLog(home.control), Signer.open(home.keys / "signing.key")


class Auditing:
    """Writes rows of the audit in one home."""

    def __init__(self, root: Path, now: Callable[[], int], denials: Denials | None = None) -> None:
        """Name the home.

        Args:
            root: The home.
            now: The wall clock, in microseconds; `rivermill.wall.wall_now` is one.
            denials: Which denied requests are worth a row.
        """
        self._root, self._now = root, now
        self._denials = denials or Denials()

    def attempt(
        self, pipeline: str, *, person: str, action: str, object: str, why: str = ""
    ) -> AbstractContextManager[Attempt]:
        """Write down what happens inside, with its outcome; see `journal.audit.audited`.

        Args:
            pipeline: Whose; one that has never run here, or an empty one, is written down as the home's.
            person: Who asks.
            action: The verb.
            object: What it is done to.
            why: The reason given.
        """
        named = self._existing(pipeline)
        control, signer = audit_log(self._root, named)
        return audited(
            control, named, person=person, action=action, object=object, why=why, now=self._now, signer=signer
        )

    async def denied(self, pipeline: str | None, *, asker: str, route: str, error: RivermillError) -> None:
        """Write down a request that was let in nowhere, unless its asker has enough rows for now."""
        admitted = self._denials.admit(asker, self._now())
        if admitted is not None:
            await asyncio.to_thread(self._put_denial, pipeline or HOME_WIDE, route, error, *admitted)

    def _put_denial(self, pipeline: str, route: str, error: RivermillError, asker: str, passed_over: int) -> None:
        named = self._existing(pipeline)
        control, signer = audit_log(self._root, named)
        control.put_audit(
            named,
            when=self._now(),
            person=asker,
            action="deny",
            object=route,
            outcome=type(error).__name__,
            details={"status": error.status, **({"not_written": passed_over} if passed_over else {})},
            signer=signer,
        )

    def _existing(self, pipeline: str) -> str:
        """A stranger may name any pipeline: those that are none get no files."""
        return pipeline if pipeline in pipelines_in(self._root) else HOME_WIDE


def asker_of(ring: KeyRing, authorization: str | None, api_key: str | None) -> str:
    """Who knocks, as far as it is known: the key's name, or the first digits of an unknown key's hash."""
    try:
        return ring.principal_of(authorization, api_key).name
    except NoKey:
        given = authorization or api_key
        return f"key-{hashlib.sha256(given.encode()).hexdigest()[:_KEY_DIGITS]}" if given else NOBODY
