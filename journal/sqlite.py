"""How Rivermill opens SQLite: through apsw (free of the WAL-reset bug), in WAL mode, fsynced at every commit."""

from pathlib import Path

import apsw

from journal.errors import Corrupt, NotWritable


def open_database(path: Path, *, readonly: bool = False) -> apsw.Connection:
    """Open or create a database file; errors name the file and say what to do.

    Raises:
        Corrupt: The file is not a database, or its pages are damaged.
        NotWritable: The file or its folder cannot be written.
    """
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    try:
        db = apsw.Connection(str(path), flags=flags, statementcachesize=200)
        db.set_busy_timeout(5_000)
        if not readonly:
            db.execute("PRAGMA journal_mode = WAL").get  # noqa: B018
            db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -65536")
        db.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise Corrupt(
            which=f"{path} ({error})", fix="Restore it from a backup, or delete it if it is a fold's file"
        ) from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise NotWritable(
            which=f"{path} ({error})", fix="Check the folder's owner and mode, or set RIVERMILL_HOME"
        ) from error
    return db
