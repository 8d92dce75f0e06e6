"""A table that only grows: its rows are numbered, each holds the hash of the one before, and each is signed.

The rules:

- A pipeline's rows are numbered from 1 without a gap.
- A row's hash covers its table's name and every column, the hash of the row before included; its signature covers the
  hash. So a signed hash vouches for all that was written up to there.
- Columns are text and integers, and what is structured is canonical JSON: a row has one spelling, and a stored byte
  that is another one shows.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from journal.errors import Corrupt, Untrusted
from journal.record import canonical_json

RESTORE = "Restore the control log from a backup; the journal's echoes show what was decided"
_SIGNATURE_DIGITS = 128

Head = tuple[int, str]
"""Where a ledger stands: the number of its last row, and that row's hash."""

START_HEAD: Head = (0, "")
"""A ledger without a row."""


class Signs(Protocol):
    """Signs a list of parts; `registry.signing.Signer` does."""

    def sign(self, *parts: bytes | str) -> str:
        """The signature, in hex."""
        ...


class Verifies(Protocol):
    """Checks signatures; `registry.signing.Verifier` does."""

    def verify(self, signature: str, *parts: bytes | str) -> None:
        """Raise `Untrusted` when it does not hold."""
        ...


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        pipeline: Whose.
        sequence: Its place, from 1.
        previous: The hash of the row before; empty for the first.
        hash: SHA-256 (hex) over everything else but the signature.
        signature: Over `signed`, in hex.
    """

    noun: ClassVar[str] = "row"

    pipeline: str
    sequence: int
    previous: str
    hash: str = ""
    signature: str = ""

    @property
    def head(self) -> Head:
        """Where the ledger stands with this row as its last."""
        return self.sequence, self.hash

    def signed(self) -> tuple[str | bytes, ...]:
        """What the signature covers."""
        return self.noun, self.pipeline, str(self.sequence), self.hash


LinkT = TypeVar("LinkT", bound=Link)


def ledger_table(name: str, metadata: sa.MetaData, *columns: sa.Column[Any], also: Sequence[Any] = ()) -> sa.Table:
    """A ledger's table: the given columns between its place and its chain."""
    return sa.Table(
        name,
        metadata,
        sa.Column("pipeline", sa.String, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        *columns,
        sa.Column("previous", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.Column("signature", sa.String, nullable=False),
        *also,
    )


class Ledger(Generic[LinkT]):
    """The rows of one table. Every verb takes the connection, so that callers choose the transaction."""

    def __init__(self, table: sa.Table, kind: type[LinkT]) -> None:
        """Name the table, and the struct that its rows are; the struct's dictionaries are stored as canonical JSON."""
        self.table = table
        self._kind = kind
        self._names = kind.__struct_fields__
        self._json = frozenset(
            field.name for field in msgspec.structs.fields(kind) if str(field.type).startswith("dict")
        )

    def rows(
        self, connection: sa.Connection, pipeline: str, *where: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[LinkT]:
        """A pipeline's rows in order, the last ``limit`` for which every condition holds; raises `Corrupt`."""
        wanted = self.table.select().where(self.table.c.pipeline == pipeline, *where)
        newest = wanted.order_by(self.table.c.sequence.desc()).limit(limit)
        return [self._link(row) for row in reversed(connection.execute(newest).mappings().all())]

    def last(self, connection: sa.Connection, pipeline: str) -> LinkT | None:
        """The last row; None before the first."""
        rows = self.rows(connection, pipeline, limit=1)
        return rows[0] if rows else None

    def head(self, connection: sa.Connection, pipeline: str) -> Head:
        """Where the ledger stands."""
        last = self.last(connection, pipeline)
        return START_HEAD if last is None else last.head

    def append(self, connection: sa.Connection, pipeline: str, signer: Signs, **facts: Any) -> LinkT:
        """Write the next row, in the caller's transaction."""
        sequence, previous = self.head(connection, pipeline)
        drafted = self._kind(pipeline=pipeline, sequence=sequence + 1, previous=previous, **facts)
        hashed = msgspec.structs.replace(drafted, hash=self.hash_of(drafted))
        link = msgspec.structs.replace(hashed, signature=signer.sign(*hashed.signed()))
        connection.execute(self.table.insert().values(**self._row(link)))
        return link

    def check(self, connection: sa.Connection, pipeline: str, verifier: Verifies) -> list[LinkT]:
        """Every row, once the chain and every signature hold.

        Raises:
            Corrupt: A row was changed, removed or moved; the message names its number.
            Untrusted: A signature does not hold.
        """
        of_pipeline = self.table.select().where(self.table.c.pipeline == pipeline).order_by(self.table.c.sequence)
        links: list[LinkT] = []
        previous = ""
        for number, row in enumerate(connection.execute(of_pipeline).mappings().all(), 1):
            if (row["sequence"], row["previous"]) != (number, previous):
                raise self._broken(pipeline, number)
            link = self._link(row)
            self.check_one(link, verifier)
            links.append(link)
            previous = link.hash
        return links

    def check_one(self, link: LinkT, verifier: Verifies) -> None:
        """Whether a row says what it said when it was signed; raises as `check`."""
        if link.hash != self.hash_of(link):
            raise self._broken(link.pipeline, link.sequence)
        require_signed(link, verifier)

    def hash_of(self, link: Link) -> str:
        """What a row's hash is, by what it says."""
        kept = {name: value for name, value in self._row(link).items() if name not in ("hash", "signature")}
        return hashlib.sha256(canonical_json({"table": self.table.name, **kept})).hexdigest()

    def check_head(self, links: Sequence[LinkT], pipeline: str, head: Head) -> None:
        """Whether the ledger still holds the row that stood last when a head was taken.

        Args:
            links: Every row.
            pipeline: Whose.
            head: What something signed says that the ledger's head was.

        Raises:
            Corrupt: The row is not there, or is another one.
        """
        sequence, _ = head
        if sequence > len(links):
            raise Corrupt(
                which=f"{self._kind.noun} {len(links) + 1} of {pipeline!r} is missing, and all after it: "
                f"there were {sequence} or more",
                fix=RESTORE,
            )
        if sequence and links[sequence - 1].head != head:
            raise self._broken(pipeline, sequence)

    def _row(self, link: Link) -> dict[str, Any]:
        """The columns as they are stored."""
        return {
            name: canonical_json(value).decode() if name in self._json else value
            for name, value in msgspec.structs.asdict(link).items()
        }

    def _link(self, row: Any) -> LinkT:
        """A stored row read; one that is spelled in another way than ours is not ours."""
        try:
            facts = {name: msgspec.json.decode(row[name]) if name in self._json else row[name] for name in self._names}
            link = msgspec.convert(facts, self._kind)
            if self._row(link) == dict(row):
                return link
        except (msgspec.DecodeError, TypeError):
            pass
        raise self._broken(row["pipeline"], row["sequence"])

    def _broken(self, pipeline: str, sequence: object) -> Corrupt:
        return Corrupt(which=f"{self._kind.noun} {sequence} of {pipeline!r} is not the one that was made", fix=RESTORE)


def require_signed(link: Link, verifier: Verifies) -> None:
    """Whether a row's signature is ours, in the one spelling that we write; raises `Untrusted` with its number."""
    try:
        verifier.verify(link.signature if _is_plain_hex(link.signature) else "", *link.signed())
    except Untrusted as error:
        raise Untrusted(
            which=f"the signature of {link.noun} {link.sequence} of {link.pipeline!r} is not ours", fix=RESTORE
        ) from error


def _is_plain_hex(text: str) -> bool:
    """Reading hex also takes capitals and spaces, so that many texts would be one signature."""
    return len(text) == _SIGNATURE_DIGITS and all(digit in "0123456789abcdef" for digit in text)
