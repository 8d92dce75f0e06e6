"""The process that owns one pipeline's journal. It loads no views and no models, so it is back within a second."""

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from journal.asking import Asking
from journal.control import ControlLog, decision_of, echo_of, missing_echoes, signed_parts
from journal.erasure import finish_erasures
from journal.errors import RivermillError, Untrusted
from journal.intake import Intake
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Draft
from journal.sqlite_log import SqliteJournal
from registry.signing import Signer
from rivermill.pipeline import load_intake
from rivermill.settings import Home


def main(root: Path, folder: Path) -> None:
    """Own the journal of the pipeline in a folder, and serve it until SIGTERM."""
    rules = load_intake(folder)
    home = Home(root, rules.name)
    journal = SqliteJournal(home.journal, rules.name, dedup_window=rules.dedup_window)
    keys = KeyTable(home.keys / "subjects.sqlite")
    finish_erasures(ControlLog(home.control), home.pipeline, keys, Signer.open(home.keys / "signing.key"))
    if echoes := _to_echo(home, journal):
        journal.append(echoes)
    intake = Intake(journal, rules.contracts, keys, starts=rules.starts)
    asking = Asking(journal, rules.contracts[rules.question.stream].current, keys, rules.question.key)
    try:
        uvloop.run(_serve(OwnerServer(journal, intake, asking, home.socket)))
    finally:
        keys.close()
        journal.close()


def _to_echo(home: Home, journal: SqliteJournal) -> list[Draft]:
    """What was decided while nobody owned the journal, up to the first decision that is not one of ours.

    A row that somebody else wrote must not enter a log from which nothing can be taken away.
    """
    verifier, echoes = Signer.open(home.keys / "signing.key"), []
    for entry in missing_echoes(ControlLog(home.control), home.pipeline, journal):
        try:
            verifier.verify(entry.signature, *signed_parts(home.pipeline, decision_of(entry)))
        except Untrusted as error:
            sys.stderr.write(f"rivermill: decision {entry.sequence} and all after it are not echoed: {error}\n")
            break
        echoes.append(echo_of(entry))
    return echoes


async def _serve(server: OwnerServer) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RivermillError as error:
        sys.stderr.write(f"rivermill: {error}\n")
        sys.exit(error.exit_code)
