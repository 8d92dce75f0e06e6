"""A home as another release of the libraries left it: what an upgrade finds."""

from contextlib import closing
from typing import cast

import apsw

from features.online_table import read_rows, write_rows
from features.rows import Row
from journal.checkpoint import FoldFile
from rivermill.settings import Home

Pair = tuple[str, bytes]


def age(home: Home) -> None:
    """Every fold is of other libraries, by which every feature is missing."""
    for path in sorted(home.fold("x").parent.glob("*.sqlite")):
        with closing(FoldFile(path)) as file, file.transaction():
            known, position = file.identity(path.stem), file.position(path.stem)
            assert known is not None
            assert position is not None
            file.set_position(path.stem, known[0], "other libraries", position)
    wanted = pairs_in(home)
    with closing(apsw.Connection(str(home.fold("features")))) as db, db:
        rows = [(view, row) for (view, _), row in zip(wanted, read_rows(db, wanted), strict=True) if row is not None]
        db.execute("DELETE FROM online")
        write_rows(db, ((view, blank(row)) for view, row in rows))


def blank(row: Row) -> Row:
    return row._replace(values=(None,) * len(row.values or ()))


def pairs_in(home: Home) -> list[Pair]:
    """The view and key of every feature row."""
    with closing(apsw.Connection(str(home.fold("features")))) as db:
        found = db.execute("SELECT view, key FROM online WHERE length(row) > 20").fetchall()
    return [(str(view), bytes(cast(bytes, key))) for view, key in found]
