"""What it would mean to take up the views that are declared today: unchanged, new, a new version, or refused.

A view never changes once a journal computes it, since models were fitted on its values. Another version of it lives
beside it: version 2 of ``delays`` is a view of the name ``delays_v2`` with ``version=2``, and ``delays`` stays
as it is. Both have rows and history of their own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from features.view_sets import ViewSet, ViewSets, plans_of
from features.views import ServicePlan, ViewPlan
from journal.errors import Refused

What = Literal["unchanged", "staged", "new", "new version", "changed", "removed"]
REFUSED: frozenset[What] = frozenset({"changed", "removed"})
_VERSIONED = re.compile(r"(?P<name>.+)_v(?P<version>[1-9][0-9]*)")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one view.

    Attributes:
        view: Its label, or its name where it is not declared any more.
        what: ``unchanged``: it is computed; ``staged``: it is still to be filled; ``new`` and ``new version`` are to be
            staged; ``changed`` and ``removed`` are refused.
        fold: Which fold computes it; empty for none so far.
        services: Names of the declared services that take it.
        lines: Who answers from it, each as ``line (model)``.
        fix: What to do, where it is refused.
    """

    view: str
    what: What
    fold: str = ""
    services: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    fix: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether nothing can be taken up before this is put right."""
        return self.what in REFUSED


def plan_views(
    declared: Sequence[ViewPlan],
    sets: ViewSets,
    services: Iterable[ServicePlan] = (),
    users: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Change, ...]:
    """Compare the declared views with those that the journal knows.

    Args:
        declared: The views of views.py.
        sets: What the journal's decisions say.
        services: The services of views.py.
        users: By a view's label: who answers from it.

    Returns:
        A change per declared view, in order, then one per view that is gone.
    """
    given, used = list(services), users or {}
    known = {name: each for each in (*waiting(sets, declared), *sets.live) for name in each.views}
    changes = [
        Change(
            view=plan.label,
            what=what,
            fold=known[plan.name].fold if what in {"unchanged", "staged"} else "",
            services=tuple(service.name for service in given if plan.name in {view.name for view in service.views}),
            lines=tuple(used.get(plan.label, ())),
            fix=_put_back(plan) if what == "changed" else "",
        )
        for plan in declared
        for what in (_what(plan, known),)
    ]
    return (*changes, *_removed(declared, sets.live, used))


def waiting(sets: ViewSets, declared: Sequence[ViewPlan]) -> tuple[ViewSet, ...]:
    """The staged sets that are still wanted: a set of which a view was edited or dropped since is staged anew."""
    return tuple(each for each in sets.staged if len(plans_of(each, declared)) == len(each.views))


def to_stage(declared: Sequence[ViewPlan], changes: Iterable[Change]) -> tuple[ViewPlan, ...]:
    """The views that are to be staged, in order."""
    fresh = {change.view for change in changes if change.what in {"new", "new version"}}
    return tuple(plan for plan in declared if plan.label in fresh)


def require_kept(changes: Iterable[Change]) -> None:
    """Raise Refused, with every view that was changed or removed under a journal that computes it."""
    refused = [change for change in changes if change.is_refused]
    if refused:
        what = "; ".join(f"{change.view} was {change.what}" for change in refused)
        raise Refused(which=f"views of this journal: {what}", fix="; ".join(change.fix for change in refused))


def _what(plan: ViewPlan, known: Mapping[str, ViewSet]) -> What:
    each = known.get(plan.name)
    if each is not None and each.views[plan.name] == plan.digest:
        return "unchanged" if each.published else "staged"
    if each is not None and each.published:
        return "changed"
    found = _VERSIONED.fullmatch(plan.name)
    is_version = found is not None and found["name"] in known and int(found["version"]) == plan.version
    return "new version" if is_version else "new"


def _removed(
    declared: Sequence[ViewPlan], live: Iterable[ViewSet], users: Mapping[str, Sequence[str]]
) -> Iterable[Change]:
    names = {plan.name for plan in declared}
    for each in live:
        for name in each.views:
            if name not in names:
                lines = sorted({line for label, of in users.items() if label.rpartition("@")[0] == name for line in of})
                fix = f"Put {name!r} back: its fold goes on computing it"
                yield Change(view=name, what="removed", fold=each.fold, lines=tuple(lines), fix=fix)


def _put_back(plan: ViewPlan) -> str:
    found = _VERSIONED.fullmatch(plan.name)
    name, version = (found["name"], int(found["version"])) if found else (plan.name, 1)
    following = max(version, plan.version if plan.version > 1 else 0, 1) + (plan.version <= version)
    return (
        f"Put {plan.name!r} back as it was, and declare the new one beside it: "
        f"name {name}_v{following}, version {following}"
    )
