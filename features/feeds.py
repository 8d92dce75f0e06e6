"""The way of a stream's records into views, compiled once: which samples, which keys, which panes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from features.entities import Entity, Timers, WindowView
from features.measure import Measure, Sample
from features.rows import FieldValue, Row, encode_key
from features.timed import Timed
from features.views import ViewPlan

_CONVERT: Mapping[str, Callable[[Any], FieldValue]] = {"int64": int, "float64": float, "string": str, "bool": bool}

Feed = Callable[[Mapping[str, Any], Sequence[Sample | None]], Entity | None]
"""Takes a record's data and samples to one view; the entity that it touched, if it has the join keys."""


class StreamFeeds:
    """What one stream's records go to: samples taken once, then every window view and plain view that wants them."""

    def __init__(self, stream: str, windows: Iterable[WindowView], plain: Iterable[ViewPlan], timers: Timers) -> None:
        views = [view for view in windows if stream in view.plan.streams]
        measures = dict.fromkeys(pane.measure for view in views for pane in view.panes if pane.stream == stream)
        self.samplers = [measure.sampler() for measure in measures]
        self.feeds = [_feed(view, stream, list(measures), timers) for view in views]
        self.plain = [(view.name, _plain_row(view)) for view in plain if stream in view.streams]


def _key_reader(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    """Read an entity's key from a record's data: a value, or a tuple of several; None when any is missing."""
    if len(names) == 1:
        (name,) = names
        return lambda data: data.get(name)

    def read(data: Mapping[str, Any]) -> Any:
        key = tuple(map(data.get, names))
        return None if None in key else key

    return read


def _feed(view: WindowView, stream: str, measures: Sequence[Measure], timers: Timers) -> Feed:
    """Compile the way of one stream's records into one view."""
    wanted = [(n, measures.index(pane.measure)) for n, pane in enumerate(view.panes) if pane.stream == stream]
    entities, enter, schedule = view.entities, view.enter, timers.schedule
    read_key = _key_reader(view.plan.join_keys)

    def feed(data: Mapping[str, Any], samples: Sequence[Sample | None]) -> Entity | None:
        key = read_key(data)
        if key is None:
            return None
        entity = entities.get(key)
        if entity is None:
            entity = enter(key)
        panes = entity.panes
        for pane, measure in wanted:
            sample = samples[measure]
            if sample is not None:
                state = panes[pane]
                boundary = state.add(sample)
                if boundary is not None and isinstance(state, Timed):
                    schedule(boundary, state)
        return entity

    return feed


def _plain_row(view: ViewPlan) -> Callable[[Mapping[str, Any], int, int], Row | None]:
    """Compile how a plain view's row is read from (data, time, at); None without the join keys."""
    read_key, several = _key_reader(view.join_keys), len(view.join_keys) > 1
    fields = [(name, _CONVERT[kind]) for name, kind in view.fields]

    def read(data: Mapping[str, Any], time: int, known: int) -> Row | None:
        key = read_key(data)
        if key is None:
            return None
        values = [(data.get(name), convert) for name, convert in fields]
        row = tuple(None if value is None else convert(value) for value, convert in values)
        return Row(encode_key(key if several else (key,)), time, known, row)

    return read
