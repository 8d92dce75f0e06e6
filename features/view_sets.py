"""View sets: which views a journal's folds compute, one fold each set, as its decisions say.

- The first set is what the journal began with; its fold is ``features``. It never grows.
- Views that come later are a set of their own, with a fold and a file of its own, named by what it computes. It is
  staged by one decision, filled from the journal's beginning, and published by another.
- A set is read and kept up by the worker from its publication on, and it never changes either.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from features.views import ViewPlan

FIRST = "features"
"""The fold of the first set."""
STAGE_VIEWS = "stage_views"
"""Names a set that is to be filled: ``fold``, ``views`` and ``first``, the last two as name to digest."""
PUBLISH_VIEWS = "publish_views"
"""Makes a filled set live: ``fold``, ``views`` as labels, ``through``, the offset up to which it was filled."""

Digests = Mapping[str, str]
"""A view's name to the digest of its plan."""


class ViewSet(msgspec.Struct, frozen=True, kw_only=True):
    """Views that one fold computes.

    Attributes:
        fold: Its name, and its file's.
        views: Name to digest.
        published: Whether its rows are read; the first set's always are.
    """

    fold: str
    views: dict[str, str]
    published: bool


class ViewSets(msgspec.Struct, frozen=True, kw_only=True):
    """Every set of a journal.

    Attributes:
        first: What it began with.
        later: What was staged since, in that order.
    """

    first: ViewSet
    later: tuple[ViewSet, ...] = ()

    @property
    def live(self) -> tuple[ViewSet, ...]:
        """The sets whose rows are read, the first in front."""
        return (self.first, *(each for each in self.later if each.published))

    @property
    def staged(self) -> tuple[ViewSet, ...]:
        """The sets that are still to be filled."""
        return tuple(each for each in self.later if not each.published)


def view_sets(decided: Iterable[tuple[str, Mapping[str, Any]]], began: Digests) -> ViewSets:
    """What decisions say.

    Args:
        decided: Action and details of each decision, in order.
        began: What the first set's fold says that it computes. It counts while no decision has said so.
    """
    staged: dict[str, dict[str, str]] = {}
    published: set[str] = set()
    first: Digests | None = None
    for action, details in decided:
        if action == STAGE_VIEWS:
            first = details["first"] if first is None else first
            staged[details["fold"]] = dict(details["views"])
        elif action == PUBLISH_VIEWS:
            published.add(details["fold"])
    return ViewSets(
        first=ViewSet(fold=FIRST, views=dict(began if first is None else first), published=True),
        later=tuple(ViewSet(fold=fold, views=views, published=fold in published) for fold, views in staged.items()),
    )


def digests_of(plans: Iterable[ViewPlan]) -> dict[str, str]:
    """Plans by name, as decisions name them."""
    return {plan.name: plan.digest for plan in plans}


def plans_of(each: ViewSet, declared: Sequence[ViewPlan]) -> tuple[ViewPlan, ...]:
    """The plans of a set, in the order of their declaration; those that are not declared as they were are left out."""
    return tuple(plan for plan in declared if each.views.get(plan.name) == plan.digest)


def fold_name(views: Digests) -> str:
    """Names the fold of a later set by what it computes."""
    digest = hashlib.sha256(msgspec.msgpack.encode(sorted(views.items()))).hexdigest()
    return f"{FIRST}-{digest[:12]}"
