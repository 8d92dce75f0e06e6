"""The process that owns one pipeline's journal. It loads no views and no models, so it is back within a second."""

import asyncio
import signal
import sys
from pathlib import Path

from journal.asking import Asking
from journal.control import ControlLog, echo_of, missing_echoes
from journal.errors import RivermillError
from journal.intake import Intake
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.sqlite_log import SqliteJournal
from rivermill.pipeline import load_intake
from rivermill.settings import Home


def main(root: Path, folder: Path) -> None:
    """Own the journal of the pipeline in a folder, and serve it until SIGTERM."""
    rules = load_intake(folder)
    home = Home(root, rules.name)
    journal = SqliteJournal(home.journal, rules.name, dedup_window=rules.dedup_window)
    keys = KeyTable(home.keys / "subjects.sqlite")
    # What was decided while nobody owned the journal acts from here on.
    echoes = [echo_of(entry) for entry in missing_echoes(ControlLog(home.control), rules.name, journal)]
    if echoes:
        journal.append(echoes)
    intake = Intake(journal, rules.contracts, keys, starts=rules.starts)
    asking = Asking(journal, rules.contracts[rules.question.stream], keys, rules.question.key)
    try:
        asyncio.run(_serve(OwnerServer(journal, intake, asking, home.socket)))
    finally:
        keys.close()
        journal.close()


async def _serve(server: OwnerServer) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RivermillError as error:
        sys.stderr.write(f"rivermill: {error}\n")
        sys.exit(error.exit_code)
