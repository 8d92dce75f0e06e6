"""Putting a backup back into a pipeline's home, or going on without what is gone, for the command line."""

from pathlib import Path
from typing import Any

import msgspec

from journal.backup import CONTROL, KEYS, load_backup
from journal.checkpoint import positions_in
from journal.errors import Refused
from journal.log import START
from journal.loss import accept_loss
from journal.restore import Deciding, restore
from rivermill.settings import Home
from rivermill.wiring import signer_of


def put_back(home: Home, source: Path, *, why: str, principal: str) -> dict[str, Any]:
    """Restore a backup by a signed decision; say what came of it, and which folds will be rebuilt because of it.

    Args:
        home: Where to; it must hold no journal.
        source: The backup.
        why: The reason; may be empty.
        principal: Who decides.

    Raises:
        Refused: The backup is another pipeline's, or something is in the way.
        UnknownName, Corrupt: As `journal.restore.restore` says.
    """
    held = load_backup(source).pipeline
    if held != home.pipeline:
        raise Refused(which=f"{source} is a backup of {held!r}, not of {home.pipeline!r}", fix=f"Restore {held!r}")
    home.prepare()
    stood = {name: offset for name, offset in positions_in(home.fold("x").parent).items() if offset > START}
    restored = restore(
        source,
        home.journal,
        control=home.folder / CONTROL,
        keys=home.keys / KEYS,
        deciding=Deciding(signer=signer_of(home), principal=principal, why=why),
    )
    rebuilt = ", ".join(f"{name} (stood at {offset})" for name, offset in stood.items())
    return {**msgspec.to_builtins(restored), "rebuilt at the next start": rebuilt or "nothing"}


def give_up(home: Home, *, why: str, principal: str) -> dict[str, Any]:
    """Go on without acknowledged records that are gone, by a signed decision; say what was given up.

    Args:
        home: The pipeline's; nobody may own it.
        why: The reason.
        principal: Who decides.

    Raises:
        OwnedElsewhere, Refused, Corrupt: As `journal.loss.accept_loss` says.
    """
    home.prepare()
    deciding = Deciding(signer=signer_of(home), principal=principal, why=why)
    loss = accept_loss(home.journal, home.pipeline, control=home.folder / CONTROL, deciding=deciding)
    return msgspec.to_builtins(loss)  # type: ignore[no-any-return]
