"""Skew of a pipeline's home: what `features.skew` needs of it, and what the command line shows of the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from features.replay import Rules
from features.skew import Known, Range, compare
from features.skew_report import Skew
from features.view_sets import PUBLISH_VIEWS
from journal.clock import format_time
from journal.poison import skips_in
from journal.reading import ByKind, decisions_in
from journal.record import Record
from journal.upcast import as_stored
from rivermill.datasets import services_of
from rivermill.inspection import reading
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home

Facts = dict[str, Any]

FOLD = "features"
"""The fold that computes views, as decisions name it."""


def skew_of(folder: Path, home: Home, range_: Range, progress: Callable[[int, int], None] = lambda _, __: None) -> Skew:
    """Compare a range of a pipeline's predictions with a rebuild from its journal.

    Args:
        folder: The pipeline's.
        home: Where its state is.
        range_: Which predictions.
        progress: Told now and then how many records of how many were read.
    """
    pipeline = load_pipeline(folder)
    with reading(home) as journal:
        end = journal.end()

        def tell(record: Record) -> None:
            if record.offset % 1_000 == 0:
                progress(record.offset, end)

        known = known_of(pipeline, journal)
        return compare(journal, replay_rules(pipeline, journal), known, range_, tell)


def known_of(pipeline: Pipeline, journal: ByKind) -> Known:
    """What is declared today, and from when on views that came later were live."""
    services = frozenset(service.label for service in services_of(pipeline).values())
    return Known(services=services, published=published_in(journal))


def published_in(journal: ByKind) -> dict[str, int]:
    """From when on each published view was live, by label: what the first echoed decision about it says.

    A view that the journal began with is in none of them.
    """
    published: dict[str, int] = {}
    for record, decision in decisions_in(journal):
        if decision.action == PUBLISH_VIEWS:
            for label in decision.details["views"]:
                published.setdefault(label, record.at)
    return published


def replay_rules(pipeline: Pipeline, journal: ByKind) -> Rules:
    """What a pipeline's rows follow from."""
    return Rules(
        views=pipeline.views,
        lateness=pipeline.lateness,
        lift=as_stored if pipeline.adapters.is_identity else pipeline.adapters.lift,
        skips=skips_in(journal).get(FOLD, frozenset()),
    )


def as_facts(skew: Skew) -> Facts:
    """A result as JSON; spans stay microseconds."""
    facts: Facts = msgspec.to_builtins(skew)
    for example in facts["examples"]:
        example["at"] = format_time(example["at"])
        for name in ("stamp", "rebuilt_stamp"):
            example[name] = _moments(example[name])
    return facts


def _moments(stamp: list[int] | None) -> list[str] | None:
    return None if stamp is None else [format_time(moment) for moment in stamp]
