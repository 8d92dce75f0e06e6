"""Views that come to a journal that is running: what they would be, staging them, filling them, publishing them.

A staged set is filled by a process of its own with the very fold that computes live views, from the journal's first
record on, while events are taken. It commits as it goes, so it can be killed at any moment and goes on from there. At
the journal's end it lets go of its file and only then decides that the set is published: from that decision's echo on
the worker computes it, beginning where the backfill ended. Of two backfills the older one is fenced by the file.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from features.feast_store import apply
from features.view_plan import Change, plan_views, require_kept, to_stage, waiting
from features.view_sets import FIRST, PUBLISH_VIEWS, STAGE_VIEWS, ViewSet, ViewSets, digests_of, fold_name, plans_of
from journal.checkpoint import FoldFile
from journal.control import echo_of, missing_echoes
from journal.errors import Refused, UnknownName
from journal.owner_client import OwnerClient
from journal.rebuild import remove_fold
from journal.sqlite_reader import SqliteReader
from rivermill.datasets import services_of
from rivermill.feature_catalog import relies, users_of
from rivermill.inspection import reading
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home
from rivermill.skipping import decide
from rivermill.view_files import decided_sets
from rivermill.wiring import LaterViews, control_of, feast_store, open_views
from rivermill.worker_process import FollowedJournal

Facts = dict[str, Any]
RECORDS_PER_PAGE = 10_000
ROWS_PER_FLUSH = 200_000
Progress = Callable[[int, int], None]


def changes_of(pipeline: Pipeline, home: Home) -> tuple[Change, ...]:
    """What the views that are declared today would mean to the journal."""
    with reading(home) as journal:
        users = users_of(pipeline, journal, control_of(home))
        sets = _sets(pipeline, home, journal)
    named = {label: [f"{u.line} ({u.model})" for u in of if relies(u)] for label, of in users.items()}
    return plan_views(pipeline.views, sets, services_of(pipeline).values(), named)


def stage(folder: Path, home: Home, *, why: str, principal: str) -> Facts:
    """Stage the views that are new and register them with Feast; nothing is decided where there is none.

    Raises:
        Refused: A view was changed or removed, or no reason was given.
    """
    pipeline = load_pipeline(folder)
    changes = changes_of(pipeline, home)
    require_kept(changes)
    plans = to_stage(pipeline.views, changes)
    if not plans:
        return {"staged": [], "fold": ""}
    if not why.strip():
        raise Refused(which="no reason to stage views was given", fix="Say why")
    with reading(home) as journal:
        first, incarnation, end = _sets(pipeline, home, journal).first.views, journal.incarnation, journal.end()
    apply(feast_store(home, incarnation), pipeline.feast_objects)
    views = digests_of(plans)
    details = {"fold": fold_name(views), "views": views, "first": dict(first)}
    _decide(home, STAGE_VIEWS, details, key=f"{STAGE_VIEWS}-{details['fold']}-{end}", why=why, principal=principal)
    return {"staged": [plan.label for plan in plans], "fold": details["fold"]}


def backfill(
    folder: Path, home: Home, wanted: Sequence[str], progress: Progress = lambda _, __: None, *, principal: str
) -> list[Facts]:
    """Fill and publish staged sets.

    Args:
        folder: The pipeline's.
        home: Where its state is.
        wanted: Names or labels of views whose sets are filled; none for all that are staged.
        progress: Told after each page up to which offset of how many records it went.
        principal: Who decides to publish.

    Returns:
        A row per set.

    Raises:
        UnknownName: A view is named that is not staged.
    """
    pipeline = load_pipeline(folder)
    with reading(home) as journal:
        _echo_again(home, journal)
        sets = _sets(pipeline, home, journal)
        chosen = _chosen(waiting(sets, pipeline.views), pipeline, wanted)
        _forget_obsolete(home, sets, pipeline)
        return [_fill_and_publish(pipeline, home, journal, each, progress, principal) for each in chosen]


def _fill_and_publish(
    pipeline: Pipeline, home: Home, journal: SqliteReader, each: ViewSet, progress: Progress, principal: str
) -> Facts:
    with closing(Filling(_opened(pipeline, home, journal, each), journal)) as filling:
        while filling.step():
            progress(filling.offset, journal.end())
        filling.flush()
        through = filling.offset
    labels = [plan.label for plan in plans_of(each, pipeline.views)]
    details = {"fold": each.fold, "views": labels, "through": through}
    _decide(
        home,
        PUBLISH_VIEWS,
        details,
        key=f"{PUBLISH_VIEWS}-{each.fold}",
        why=f"filled from the journal up to offset {through}",
        principal=principal,
    )
    return details


def _opened(pipeline: Pipeline, home: Home, journal: SqliteReader, each: ViewSet) -> LaterViews:
    return open_views(pipeline, home, FollowedJournal(journal), each, FoldFile(home.fold(each.fold)))


class Filling:
    """A staged set's fold on its way to the journal's end."""

    def __init__(self, views: LaterViews, journal: SqliteReader) -> None:
        self._views, self._journal = views, journal

    @property
    def offset(self) -> int:
        """Up to where it was filled."""
        return self._views.runner.offset

    def step(self) -> bool:
        """Take a page and commit it; whether there may be more of them right away."""
        self._journal.refresh()
        runner = self._views.runner
        page = self._journal.read(0, runner.offset, RECORDS_PER_PAGE)
        for record in page:
            runner.apply(record)
        if page:
            runner.commit()
            self._views.flush_history(ROWS_PER_FLUSH)
        return len(page) == RECORDS_PER_PAGE

    def flush(self) -> None:
        """Move every accepted row to history."""
        self._views.flush_history()

    def close(self) -> None:
        """Let go of the fold's file."""
        self._views.runner.close()


def _sets(pipeline: Pipeline, home: Home, journal: SqliteReader) -> ViewSets:
    return decided_sets(home, control_of(home), journal.incarnation, pipeline.views)


def _chosen(staged: Sequence[ViewSet], pipeline: Pipeline, wanted: Sequence[str]) -> list[ViewSet]:
    names = {plan.label: plan.name for plan in pipeline.views}
    asked = {names.get(name, name) for name in wanted}
    known = {name for each in staged for name in each.views}
    if asked - known:
        raise UnknownName(
            which=f"staged view {', '.join(sorted(asked - known))}; there are: {', '.join(sorted(known)) or 'none'}",
            fix="Stage it with `rivermill features apply`, or name another",
        )
    return [each for each in staged if not asked or asked & each.views.keys()]


def _forget_obsolete(home: Home, sets: ViewSets, pipeline: Pipeline) -> None:
    """Remove the files of sets that were edited before they were published: their views' history is another's now."""
    wanted = {each.fold for each in (*waiting(sets, pipeline.views), *sets.live)}
    for each in sets.staged:
        if each.fold not in wanted and each.fold != FIRST:
            remove_fold(home.fold(each.fold))


def _decide(home: Home, action: str, details: Facts, **decision: str) -> None:
    decide(home, action=action, subject=details["fold"], details=details, **decision)


def _echo_again(home: Home, journal: SqliteReader) -> None:
    """What was decided by a process that died before it could say so to the journal's owner."""
    with closing(OwnerClient(home.socket)) as owner:
        for entry in missing_echoes(control_of(home), home.pipeline, journal):
            owner.offer(echo_of(entry))
