"""Where the view sets of a home stand: what its decisions say, and which file holds the rows of which view."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from features.view_sets import FIRST, ViewSets, digests_of, view_sets
from features.views import ViewPlan
from journal.checkpoint import FoldFile, place_in
from journal.control import ControlLog
from journal.reading import ByKind, decisions_in
from rivermill.settings import Home

_decode = msgspec.msgpack.Decoder(list[tuple[str, str]]).decode


def echoed_sets(home: Home, journal: ByKind, incarnation: str, declared: Sequence[ViewPlan]) -> ViewSets:
    """The sets as the journal's echoes say: what folds go by."""
    decided = ((decision.action, decision.details) for _, decision in decisions_in(journal))
    return _sets(home, decided, incarnation, declared)


def decided_sets(home: Home, control: ControlLog, incarnation: str, declared: Sequence[ViewPlan]) -> ViewSets:
    """The sets as the control log says, echoed already or not: what the next decision goes by."""
    decided = ((entry.action, entry.details) for entry in control.entries(home.pipeline))
    return _sets(home, decided, incarnation, declared)


def online_file(home: Home, sets: ViewSets, view: str) -> Path:
    """The file with a live view's newest rows; the first set's for a view that is not live."""
    return home.fold(next((each.fold for each in sets.live if view in each.views), FIRST))


def later_files(home: Home, control: ControlLog) -> dict[str, Path]:
    """The files of the views that were published after the first set, by view."""
    decided = ((entry.action, entry.details) for entry in control.entries(home.pipeline))
    live = (each for each in view_sets(decided, {}).later if each.published)
    return {view: home.fold(each.fold) for each in live for view in each.views}


def live_files(home: Home, control: ControlLog) -> list[Path]:
    """The files of the folds whose views are published, the first set's first; a set that is being filled has none."""
    paths = (home.fold(FIRST), *sorted(set(later_files(home, control).values())))
    return [path for path in paths if path.exists()]


def _sets(
    home: Home, decided: Iterable[tuple[str, Mapping[str, Any]]], incarnation: str, declared: Sequence[ViewPlan]
) -> ViewSets:
    return view_sets(decided, _began(home.fold(FIRST), incarnation) or digests_of(declared))


def _began(path: Path, incarnation: str) -> dict[str, str]:
    """What the first set's fold computes; nothing before its first commit in this life of the journal."""
    place = place_in(path, FIRST)
    if place is None or place.position.incarnation != incarnation:
        return {}
    with closing(FoldFile(path, readonly=True)) as file:
        known = file.get("fold", b"views")
    return {} if known is None else dict(_decode(known))
