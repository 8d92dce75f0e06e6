"""The HTTP process: serves the API on loopback, follows every pipeline's journal, and measures staged versions."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from journal.errors import RivermillError
from journal.event_reader import EventReader
from journal.owner_client import AsyncOwnerClient
from journal.privacy import KeyTable
from journal.reading import read_one
from journal.sqlite_reader import SqliteReader
from journal.stream import Stream
from rivermill.access import KeyRing
from rivermill.api import make_app
from rivermill.api_hot import PipelineService
from rivermill.desk import Desk, JobDesk
from rivermill.genesis import definition_of
from rivermill.online_rows import FollowedRows, followed_rows
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.registry_wiring import live_lines
from rivermill.settings import Home
from rivermill.wiring import answering_of, champion_of
from serving.live import LiveService

_KEEP_ALIVE = 75
"""Seconds: longer than clients keep an idle connection, so that none sends into one that closes at this very moment."""

_FOLLOW_EVERY = 0.02
_STAGE_EVERY = 0.5

_log = logging.getLogger("rivermill.http")


@dataclass(frozen=True, slots=True)
class _Post:
    """One pipeline with its home, the rows that answers are made from, and its service."""

    pipeline: Pipeline
    home: Home
    rows: FollowedRows
    service: PipelineService


def main(root: Path, port: int, folders: Sequence[Path]) -> None:
    """Serve until SIGTERM."""
    posts = [_open(root, load_pipeline(folder)) for folder in folders]
    homes = {post.pipeline.name: post.home for post in posts}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(task) for post in posts for task in _chores(post)]
        for task in tasks:
            task.add_done_callback(_end_with)
        try:
            yield
        finally:
            await asyncio.gather(*map(_drain, posts))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What was opened lives on. Looking through it again and again for garbage would hold answers up by 0.2 s.
    gc.collect()
    gc.freeze()
    app = make_app(
        {post.pipeline.name: post.service for post in posts},
        KeyRing.open(root / "access"),
        Desk({post.pipeline.name: (post.pipeline, post.home) for post in posts}),
        JobDesk(homes),
        lifespan,
    )
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
    )


def _open(root: Path, pipeline: Pipeline) -> _Post:
    home = Home(root, pipeline.name)
    journal = SqliteReader(home.journal)
    champion = champion_of(pipeline, home, read_one(journal))
    rows = followed_rows(pipeline, home, journal.incarnation)
    answering = answering_of(pipeline, definition_of(pipeline), rows, champion)
    # Questions have a connection of their own, on which no event stands before them.
    live = LiveService(answering, journal, AsyncOwnerClient(home.socket))
    live.follow()
    contracts, keys = pipeline.contracts, KeyTable(home.keys / "subjects.sqlite")
    service = PipelineService(
        name=pipeline.name,
        live=live,
        owner=AsyncOwnerClient(home.socket),
        question=Stream(contracts[pipeline.question.stream].current, keys),
        label=contracts[pipeline.label.stream],
        reader=EventReader(contracts, keys),
        attempts=home.attempts,
    )
    return _Post(pipeline, home, rows, service)


def _end_with(task: "asyncio.Task[None]") -> None:
    """A chore that fails ends the process: whoever answers without following the journal answers wrongly."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a chore failed, and this process with it", exc_info=error, extra={"action": "chore_failed"})
        signal.raise_signal(signal.SIGTERM)


def _chores(post: _Post) -> Sequence[Coroutine[None, None, None]]:
    return (_follow(post), post.service.live.record_enqueued(), _stage(post))


async def _drain(post: _Post) -> None:
    """Record what was answered and is not recorded yet, for a little while."""
    left = await post.service.live.drain()
    if left:
        _log.warning(
            "%s: %d answers are out that nobody knows to be recorded",
            post.pipeline.name,
            left,
            extra={"action": "answers_unrecorded"},
        )


async def _follow(post: _Post) -> None:
    """Keep up with what may change the champion, and with a fold's rows that take others' place."""
    while True:
        post.service.live.follow()
        post.rows.follow()
        await asyncio.sleep(_FOLLOW_EVERY)


async def _stage(post: _Post) -> None:
    """Measure versions that nobody has measured yet, beside the requests and not between them."""
    known = None
    while True:
        places = post.service.live.answering.champion.state.places
        if places.keys() != known:
            with contextlib.suppress(RivermillError):
                await asyncio.to_thread(_stage_new, post)
                known = set(places)
        await asyncio.sleep(_STAGE_EVERY)


def _stage_new(post: _Post) -> None:
    with contextlib.closing(SqliteReader(post.home.journal)) as journal:
        lines = live_lines(post.pipeline, post.home, journal, lambda _: None)
        for line in lines.unstaged():
            lines.stage(line)
            _log.info("version %s is staged", line, extra={"action": "version_staged"})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), [Path(folder) for folder in sys.argv[4:]])
    except RivermillError as error:
        sys.stderr.write(f"rivermill: {error}\n")
        sys.exit(error.exit_code)
