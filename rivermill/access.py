"""Who may do what: API keys, the roles they carry, and the file that holds their hashes.

A key is shown once, when it is made. What is stored is its SHA-256: a key is 256 random bits, so nothing slower is
needed to keep it from being guessed. The file is looked at for every request, so what another process changed holds
from the next one on.
"""

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from journal.blobs import write_durably
from journal.errors import ConflictingId, Misconfigured, NoKey, NotAllowed, UnknownName, Untrusted

ROLES = ("producer", "predictor", "labeler", "trainer", "promoter", "auditor", "admin")
"""Send events · ask · send outcomes · submit jobs · decide · read everything · all of it."""

ADMIN = "admin"
PREFIX = "rm_"
_BYTES = 32
_OWNER_ONLY = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_FIX = "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`; `rivermill access add` makes one"
_PUT_BACK = "Put it back from a backup, or delete its folder and make new keys"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from.

    Attributes:
        name: As the key was made for.
        roles: What it may do.
        pipelines: Where; everywhere when empty.
    """

    name: str
    roles: frozenset[str]
    pipelines: frozenset[str]

    def require(self, allowed: frozenset[str], pipeline: str | None) -> None:
        """Return when one of these roles is ours, in this pipeline; raises NotAllowed."""
        if ADMIN not in self.roles and not self.roles & allowed:
            needed = ", ".join(sorted(allowed | {ADMIN}))
            raise NotAllowed(
                which=f"{self.name!r} is {', '.join(sorted(self.roles))}", fix=f"It takes one of: {needed}"
            )
        if pipeline is not None and not self.reaches(pipeline):
            known = ", ".join(sorted(self.pipelines))
            raise NotAllowed(which=f"{self.name!r} and pipeline {pipeline!r}", fix=f"This key is for: {known}")

    def reaches(self, pipeline: str) -> bool:
        """Whether the key is for this pipeline at all, whatever its roles."""
        return not self.pipelines or pipeline in self.pipelines


class _Holder(msgspec.Struct, frozen=True):
    """One line of the file."""

    name: str
    roles: list[str]
    pipelines: list[str]
    hash: str


class KeyRing:
    """The keys of a home."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "keys.json"
        self._lock = folder / "lock"
        self.admin_path = folder / "admin.key"
        self._seen: tuple[int, int] = (0, 0)
        self._holders: dict[str, Principal] = {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a home's keys; the first time, with a key of an admin beside them.

        Raises:
            Untrusted: Others may read the file, or it is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        ring = cls(folder)
        with ring._alone():
            if not ring._path.exists():
                secret = _new_secret()
                # The key before its hash: a crash between the two leaves a key of nothing, and not a home without one.
                _write_private(ring.admin_path, secret.encode() + b"\n")
                ring._write([_Holder(ADMIN, [ADMIN], [], _hash(secret))])
        ring._read()
        return ring

    def add(self, name: str, roles: Sequence[str], pipelines: Sequence[str] = ()) -> str:
        """Make a key; this is the only time that it can be seen.

        Raises:
            Misconfigured: There is no such role, or none is given.
            ConflictingId: The name has a key.
        """
        unknown = [role for role in roles if role not in ROLES]
        if unknown or not roles or not name.isprintable() or not name:
            raise Misconfigured(
                which=f"name {name!r}, roles {', '.join(roles) or 'none'}", fix=f"Roles are: {', '.join(ROLES)}"
            )
        secret = _new_secret()
        with self._alone():
            holders = self._stored()
            if any(holder.name == name for holder in holders):
                raise ConflictingId(which=f"{name!r} has a key", fix="Revoke it first, or use another name")
            self._write([*holders, _Holder(name, list(roles), list(pipelines), _hash(secret))])
        return secret

    def revoke(self, name: str) -> None:
        """Let a key open nothing any more; raises UnknownName."""
        with self._alone():
            holders = self._stored()
            left = [holder for holder in holders if holder.name != name]
            if len(left) == len(holders):
                raise UnknownName(which=f"{name!r} has no key", fix="`rivermill access list` shows who has")
            self._write(left)

    def list(self) -> Sequence[dict[str, Any]]:
        """Names, roles and pipelines."""
        return [
            {"name": holder.name, "roles": holder.roles, "pipelines": holder.pipelines or "all"}
            for holder in self._stored()
        ]

    def principal_of(self, authorization: str | None, api_key: str | None = None) -> Principal:
        """Whose key a request carries.

        Args:
            authorization: The value of the header of that name; it goes before the other.
            api_key: The value of ``X-API-Key``.

        Raises:
            NoKey: There is none, or it opens nothing.
            Untrusted: What is stored cannot be relied on, so no key opens anything.
        """
        scheme, _, secret = (authorization or f"bearer {api_key or ''}").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise NoKey(which="the request carries none", fix=_FIX)
        self._read()
        holder = self._holders.get(_hash(secret.strip()))
        if holder is None:
            raise NoKey(which="the request carries one that opens nothing here", fix=_FIX)
        return holder

    def _read(self) -> None:
        """Take up what is stored, if it is not what was read last."""
        found = self._require_private()
        if (found.st_mtime_ns, found.st_ino) == self._seen:
            return
        self._holders = {
            holder.hash: Principal(holder.name, frozenset(holder.roles), frozenset(holder.pipelines))
            for holder in self._stored()
        }
        self._seen = (found.st_mtime_ns, found.st_ino)

    def _stored(self) -> Sequence[_Holder]:
        self._require_private()
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[_Holder])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Untrusted(which=f"{self._path.name} is damaged ({error})", fix=_PUT_BACK) from error

    def _require_private(self) -> os.stat_result:
        try:
            found = self._path.stat()
        except FileNotFoundError as error:
            raise Untrusted(which=f"{self._path.name} is gone", fix=_PUT_BACK) from error
        if stat.S_IMODE(found.st_mode) & _OTHERS:
            raise Untrusted(which=f"{self._path.name} is open to others", fix="Give it mode 600, and new keys")
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other process from changing the file meanwhile."""
        with self._lock.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, holders: Sequence[_Holder]) -> None:
        _write_private(self._path, msgspec.json.encode(list(holders)))


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(_BYTES)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may ever read."""
    before = os.umask(0o777 & ~_OWNER_ONLY)
    try:
        write_durably(path, data)
    finally:
        os.umask(before)
