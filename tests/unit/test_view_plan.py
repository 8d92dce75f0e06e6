"""What becomes of declared views under a journal that computes some of them already."""

from typing import Any

import pytest

from features.view_plan import Change, plan_views, require_kept, to_stage
from features.view_sets import PUBLISH_VIEWS, STAGE_VIEWS, ViewSets, digests_of, fold_name, plans_of, view_sets
from features.views import ServicePlan, ViewPlan
from journal.errors import Refused


def view(name: str, **changes: Any) -> ViewPlan:
    given: dict[str, Any] = {
        "join_keys": ("site",),
        "key_types": ("string",),
        "fields": (("url", "string"),),
        "ttl": None,
        "kind": "plain",
        "streams": ("visits",),
    }
    return ViewPlan(name=name, **(given | changes))


A, B = view("a"), view("b")
A2, C = view("a_v2", version=2, ttl=7), view("c")
CHANGED = view("a", ttl=5)


def staged(*plans: ViewPlan) -> tuple[str, dict[str, Any]]:
    views = digests_of(plans)
    return STAGE_VIEWS, {"fold": fold_name(views), "views": views, "first": digests_of([A, B])}


def published(*plans: ViewPlan) -> tuple[str, dict[str, Any]]:
    details = {"fold": fold_name(digests_of(plans)), "views": [plan.label for plan in plans], "through": 5}
    return PUBLISH_VIEWS, details


def sets(*decided: tuple[str, dict[str, Any]]) -> ViewSets:
    return view_sets(decided, digests_of([A, B]))


def what(*declared: ViewPlan, given: ViewSets | None = None) -> dict[str, str]:
    return {change.view: change.what for change in plan_views(declared, given or sets())}


def test_what_a_journal_began_with_is_unchanged() -> None:
    assert what(A, B) == {"a@1": "unchanged", "b@1": "unchanged"}


def test_a_view_that_the_journal_does_not_know_is_new_and_another_version_is_one_only_beside_the_first() -> None:
    assert what(A, B, C, A2) == {"a@1": "unchanged", "b@1": "unchanged", "c@1": "new", "a_v2@2": "new version"}
    assert what(A, B, view("d_v2", version=2))["d_v2@2"] == "new"
    assert what(A, B, view("a_v2"))["a_v2@1"] == "new"


@pytest.mark.parametrize(("edited", "following"), [(CHANGED, 2), (view("a", version=2), 2), (view("a", version=3), 3)])
def test_a_view_that_was_edited_is_refused_and_told_what_the_next_version_is_called(
    edited: ViewPlan, following: int
) -> None:
    changes = plan_views([edited, B], sets())
    assert changes[0].what == "changed"
    with pytest.raises(Refused, match=f"{edited.label} was changed.*name a_v{following}, version {following}"):
        require_kept(changes)


def test_an_edited_second_version_is_followed_by_a_third() -> None:
    given = sets(staged(A2), published(A2))
    (change,) = [c for c in plan_views([A, B, view("a_v2", version=2)], given) if c.is_refused]
    assert change.fix.endswith("name a_v3, version 3")


def test_a_view_that_is_gone_is_refused_with_the_lines_that_answer_from_it() -> None:
    changes = plan_views([A], sets(), users={"b@1": ["river (12ab)"], "a@1": ["other (34cd)"]})
    assert changes[-1] == Change(
        view="b", what="removed", fold="features", lines=("river (12ab)",), fix=changes[-1].fix
    )
    with pytest.raises(Refused, match="b was removed"):
        require_kept(changes)


def test_a_change_names_the_services_and_lines_that_it_touches() -> None:
    services = [ServicePlan(name="old", views=(A, B)), ServicePlan(name="all", views=(A, B, C))]
    changes = plan_views([A, B, C], sets(), services, {"a@1": ["river (12ab)"]})
    assert [(change.services, change.lines) for change in changes] == [
        (("old", "all"), ("river (12ab)",)),
        (("old", "all"), ()),
        (("all",), ()),
    ]


def test_a_set_is_staged_until_it_is_published_and_has_a_fold_of_its_own() -> None:
    waiting, done = sets(staged(C)), sets(staged(C), published(C))
    assert what(A, B, C, given=waiting)["c@1"] == "staged"
    assert what(A, B, C, given=done)["c@1"] == "unchanged"
    assert [each.fold for each in waiting.live] == ["features"]
    assert [each.fold for each in done.live] == ["features", fold_name(digests_of([C]))]
    assert [each.fold for each in waiting.staged] == [fold_name(digests_of([C]))]
    assert not done.staged
    assert plan_views([A, B, C], done)[-1].fold == done.later[0].fold


def test_what_was_staged_may_still_be_edited_or_dropped() -> None:
    waiting = sets(staged(C))
    assert what(A, B, view("c", ttl=9), given=waiting)["c@1"] == "new"
    assert what(A, B, given=waiting) == {"a@1": "unchanged", "b@1": "unchanged"}


def test_what_was_edited_and_put_back_is_staged_again() -> None:
    given = sets(staged(C), staged(view("c", ttl=9)))
    assert what(A, B, view("c", ttl=9), given=given)["c@1"] == "staged"


def test_what_was_staged_together_with_something_that_was_edited_is_staged_anew() -> None:
    assert what(A, B, C, view("d", ttl=9), given=sets(staged(C, view("d"))))["c@1"] == "new"


def test_only_what_is_new_is_staged() -> None:
    declared = [A, C, B, A2]
    assert to_stage(declared, plan_views(declared, sets())) == (C, A2)
    assert to_stage(declared, plan_views(declared, sets(staged(C, A2)))) == ()


def test_the_first_set_is_what_the_first_decision_says_whatever_the_file_says_later() -> None:
    given = view_sets([staged(C)], digests_of([A, B, C]))
    assert set(given.first.views) == {"a", "b"}


def test_a_sets_plans_are_those_declared_as_they_were() -> None:
    assert plans_of(sets().first, [B, A, C]) == (B, A)
    assert plans_of(sets().first, [CHANGED, B]) == (B,)


def test_a_fold_is_named_by_what_it_computes_in_any_order() -> None:
    assert fold_name(digests_of([A, C])) == fold_name(digests_of([C, A]))
    assert len({fold_name(digests_of(plans)) for plans in ([A], [CHANGED], [A, C])}) == 3
