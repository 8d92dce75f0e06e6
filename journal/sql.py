"""A SQL database that several processes write, through SQLAlchemy: one SQLite file, or PostgreSQL in a cluster.

Connections are short, and errors of the driver come out in our words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from journal.errors import Corrupt, DurabilityLost, NotWritable, RivermillError, UpstreamError

_BUSY_SECONDS = 10

_TRANSLATIONS: dict[str, tuple[type[RivermillError], str]] = {
    "SQLITE_FULL": (DurabilityLost, "Make room on the disk, then try again"),
    "SQLITE_NOTADB": (Corrupt, "Restore it from a backup"),
    "SQLITE_CORRUPT": (Corrupt, "Restore it from a backup"),
    "SQLITE_CANTOPEN": (NotWritable, "Check the folder's owner and mode"),
    "SQLITE_READONLY": (NotWritable, "Check the folder's owner and mode"),
}


class Database:
    """Where tables are that more than one process writes."""

    def __init__(self, url: str, tables: sa.MetaData) -> None:
        """Open the database, and make the tables that are missing.

        Args:
            url: As SQLAlchemy writes it: ``sqlite:///<file>``, or PostgreSQL's.
            tables: What is to be there.

        Raises:
            Corrupt, NotWritable: It is none, or cannot be written.
        """
        self.engine = sa.create_engine(url, poolclass=NullPool, connect_args=_connect_args(url))
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _make_durable)
        with self.writing() as connection:
            tables.create_all(connection)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees what was committed."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise _translated(error, self.engine.url) from error

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer shares: SQLite takes its write lock at once."""
        with self.reading() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            try:
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise


def _connect_args(url: str) -> dict[str, Any]:
    # isolation_level None: we begin transactions ourselves, with the lock that we want.
    return {"timeout": _BUSY_SECONDS, "isolation_level": None} if url.startswith("sqlite") else {}


def _make_durable(connection: Any, _: object) -> None:
    # Not in WAL mode: the SQLite that Python links may be one that can lose pages when a checkpoint meets a writer.
    connection.execute("PRAGMA synchronous = EXTRA")


def _translated(error: sa.exc.DBAPIError, url: sa.URL) -> RivermillError:
    """The driver's error in our words; of SQLite's extended codes the first two words are the code."""
    code = "_".join(str(getattr(error.orig, "sqlite_errorname", "")).split("_")[:2])
    kind, fix = _TRANSLATIONS.get(code, (UpstreamError, "Try again"))
    return kind(which=f"{url.database} ({error.orig})", fix=fix)
