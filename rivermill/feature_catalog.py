"""The catalog of a pipeline's views as the command line shows it: declarations, what is held, who relies on it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from features.catalog import Entry, Held, User, catalog_of, search, with_held, with_users
from features.catalog_state import held_of
from features.views import ViewPlan
from journal.body import Definition, Snapshot, Version, decode
from journal.clock import format_time
from journal.control import ControlLog
from journal.control import Entry as Decided
from journal.errors import UnknownName
from journal.reading import each_of
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from registry.succession import succession_of
from rivermill.datasets import services_of
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home
from rivermill.view_files import live_files
from rivermill.wiring import control_of

Facts = dict[str, Any]

_GONE = frozenset({"retired", "rejected"})
_RECENT = 1_000


class Catalog:
    """The views of one pipeline, with and without a home."""

    def __init__(self, folder: Path, home: Home) -> None:
        """Load the pipeline; raises Misconfigured."""
        self.pipeline, self.home = load_pipeline(folder), home

    def table(self, text: str = "") -> list[Facts]:
        """A row per view that holds every word of the text."""
        return [_row(entry) for entry in search(self.entries(), text)]

    def show(self, name: str) -> Facts:
        """All about one view; raises UnknownName."""
        view = self.view(name)
        entry = next(entry for entry in self.entries() if entry.view == view.name)
        fields = {field.name: field.type for field in entry.fields}
        return {
            **_summary(entry),
            "description": entry.description,
            "services": list(entry.services),
            "fields": fields,
            "meaning": {field.name: field.meaning for field in entry.fields},
            "tags": entry.tags,
            "digest": entry.digest,
            **({} if entry.held is None else _held(entry)),
            "users": [msgspec.to_builtins(user) for user in entry.users],
        }

    def freshness(self) -> list[Facts]:
        """How far each view's rows reach, beside the journal's now; raises UnknownName where it has not run."""
        with self._journal() as journal:
            if journal is None:
                raise UnknownName(
                    which=f"no state of {self.home.pipeline!r} in {self.home.root}",
                    fix="Run it first, or name another --home",
                )
            now = journal.clock
            return [
                {"view": entry.label, "ttl": entry.ttl_text, **_held(entry), "behind": _behind(entry, now)}
                for entry in self._with_state(journal)
            ]

    def view(self, name: str) -> ViewPlan:
        """A view's plan, by ``name`` or ``name@version``; raises UnknownName."""
        for view in self.pipeline.views:
            if name in (view.name, view.label):
                return view
        known = ", ".join(view.label if "@" in name else view.name for view in self.pipeline.views)
        raise UnknownName(which=f"view {name!r}; there are: {known}", fix="Name one of them")

    def entries(self) -> list[Entry]:
        """Every view, with what is known about it."""
        with self._journal() as journal:
            return self._declared() if journal is None else self._with_state(journal)

    def _declared(self) -> list[Entry]:
        return catalog_of(self.pipeline.feast_objects, self.pipeline.views, services_of(self.pipeline).values())

    def _with_state(self, journal: SqliteReader) -> list[Entry]:
        files, history = live_files(self.home, control_of(self.home)), self.home.history(journal.incarnation)
        found = {view.name: held_of(view, files, history, journal.clock) for view in self.pipeline.views}
        held = {name: each for name, each in found.items() if each is not None}
        return with_users(with_held(self._declared(), held), users_of(self.pipeline, journal, control_of(self.home)))

    @contextmanager
    def _journal(self) -> Iterator[SqliteReader | None]:
        if not self.home.exists:
            yield None
            return
        journal = SqliteReader(self.home.journal)
        try:
            yield journal
        finally:
            journal.close()


def relies(user: User) -> bool:
    """Whether a line still needs the views it was made on: a declared one goes on learning, whatever answers."""
    return user.kind == "online" or user.state not in _GONE


def users_of(pipeline: Pipeline, journal: SqliteReader, control: ControlLog) -> Mapping[str, Sequence[User]]:
    """Which lines answer from which views, by the view's label."""
    defined = [decode(record.body, Definition) for record in each_of(journal, Kind.DEFINITION)]
    views = {definition.service: definition.views for definition in defined}
    decided: Sequence[Decided] = control.entries(pipeline.name)
    states = succession_of(pipeline.name, decided).states
    users: dict[str, list[User]] = {}
    # A live learner's features never change: the journal's first definition fixed them, whatever is declared now.
    service = defined[0].service if defined else pipeline.service.label
    for line, kind, model, answers_from in (*_online(pipeline, journal, service), *_batch(journal)):
        user = User(line=line, kind=kind, state=str(states.get(line, "candidate")), model=model[:12])
        for label in views.get(answers_from, ()):
            users.setdefault(label, []).append(user)
    return users


def _online(pipeline: Pipeline, journal: SqliteReader, service: str) -> Iterator[tuple[str, str, str, str]]:
    snapshots = [decode(record.body, Snapshot) for record in journal.last_of_kind(Kind.SNAPSHOT, _RECENT)]
    models = {snapshot.line: snapshot.model for snapshot in snapshots if snapshot.published}
    for line in pipeline.lines:
        name = line.settings.line
        yield name, "online", models.get(name, ""), service


def _batch(journal: SqliteReader) -> Iterator[tuple[str, str, str, str]]:
    for record in each_of(journal, Kind.VERSION):
        version = decode(record.body, Version)
        yield version.line, "batch", version.model, version.service


def _summary(entry: Entry) -> Facts:
    return {
        "view": entry.label,
        "trust": entry.trust,
        "owner": entry.owner,
        "keys": list(entry.keys),
        "kind": entry.kind,
        "streams": list(entry.streams),
        "ttl": entry.ttl_text,
        "stale": entry.stale,
        "features": len(entry.fields),
    }


def _row(entry: Entry) -> Facts:
    return {
        **_summary(entry),
        "entities": None if entry.held is None else entry.held.entities,
        "newest": None if entry.held is None else _moment(entry.held.newest_known),
        "used_by": [user.line for user in entry.users if relies(user)],
    }


def _held(entry: Entry) -> Facts:
    held = entry.held or Held(entities=0, stale=0, rows=0, newest_event=None, newest_known=None)
    return {
        "entities": held.entities,
        "stale_entities": held.stale,
        "rows": held.rows,
        "newest_event": _moment(held.newest_event),
        "newest_known": _moment(held.newest_known),
        "late_by_stream": held.late,
    }


def _behind(entry: Entry, now: int) -> int | None:
    """How far the newest row lies behind the journal's now, in microseconds."""
    known = None if entry.held is None else entry.held.newest_known
    return None if known is None else max(0, now - known)


def _moment(micros: int | None) -> str | None:
    return None if micros is None else format_time(micros)
