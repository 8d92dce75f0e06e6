"""How Rivermill opens SQLite: through apsw (free of the WAL-reset bug), in WAL mode, fsynced at every commit."""

from collections.abc import Callable
from pathlib import Path

import apsw

from journal.errors import Corrupt, DurabilityLost, NotWritable


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


_PAGES_PER_STEP = 4_096


def copy_database(source: Path, target: Path, progress: Callable[[float], None] = lambda _: None) -> None:
    """Copy a database that others may be writing, as it stands at one commit, into one plain file, fsynced.

    Args:
        source: The database; only read.
        target: A new file, without a write-ahead log.
        progress: Told the share that is done, 0 to 1.

    Raises:
        Corrupt, NotWritable: About the source.
        DurabilityLost: The target could not be written.
    """
    origin = open_database(source, readonly=True)
    copy = apsw.Connection(str(target))
    try:
        # An open read transaction holds the copy to one commit, so that no write makes it begin again.
        origin.execute("BEGIN").execute("SELECT 1 FROM sqlite_schema").get  # noqa: B018
        with copy.backup("main", origin, "main") as backup:
            while not backup.done:
                backup.step(_PAGES_PER_STEP)
                progress(1 - backup.remaining / max(backup.page_count, 1))
        copy.execute("PRAGMA journal_mode = DELETE").get  # noqa: B018
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(which=f"{source.name} ({error})", fix="Restore it from a backup") from error
    except (apsw.FullError, apsw.IOError) as error:
        raise DurabilityLost(which=f"{target} ({error})", fix="Make room on the disk, then try again") from error
    finally:
        copy.close()
        origin.close()
