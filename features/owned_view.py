"""What Feast may do to a view that a pipeline's fold owns: hand events to the journal, and offer history again.

A pushed row of a plain view becomes an event of the stream that feeds it. Its id follows from what it says and from its
``created`` time, so pushing it again changes nothing, and a correction back to an earlier value is one. What the row's
known time will be, the journal says.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson
from feast.feature_view import FeatureView
from feast.repo_config import RepoConfig

from features.feast_row import Written, key_values, micros, scalar
from features.rows import Row
from features.stored_row import Wanted
from features.views import STREAM, WINDOWS
from journal.clock import format_time
from journal.errors import Refused
from journal.owner_client import OwnerClient
from journal.wire import AcceptedFate, ConflictedFate, Fate, QuarantinedFate, RefusedFate, RepeatedFate

PRINCIPAL = "feast"
"""Whom the journal names as the sender of what was pushed."""

_OFFERED = {"action": "rows_offered_again"}
_EVENTS_PER_REQUEST = 1_000
_TO_STREAMS = "Send events to the streams that feed it"


_log = logging.getLogger("rivermill.features")


class Rows(Protocol):
    """Where the fold's rows can be read."""

    def read(self, wanted: Wanted) -> list[Row | None]:
        """The stored rows asked for, in order, deletes included."""
        ...


def push_events(config: RepoConfig, view: FeatureView, data: Sequence[Written]) -> None:
    """Append rows to the journal of the pipeline that owns the view, as events, behind their contract.

    Raises:
        Refused: The view is computed, or no owner is configured, or the contract turned events down. The message says
            how many; the others are in the journal.
        OwnerDown, Busy, DurabilityLost: As the owner says. Push the same again then.
    """
    stream = _stream_of(view)
    if config.online_store.socket is None:
        fix = "Set the online store's socket to the one of the journal's owner, or send events to the pipeline"
        raise Refused(which=f"view {view.name!r} is written only by its fold", fix=fix)
    names = [feature.name for feature in view.features]
    events = [_event(config.project, stream, names, written) for written in data]
    owner = OwnerClient(Path(config.repo_path or ".") / config.online_store.socket)
    try:
        fates = [
            fate
            for start in range(0, len(events), _EVENTS_PER_REQUEST)
            for fate in owner.take(events[start : start + _EVENTS_PER_REQUEST], PRINCIPAL)
        ]
    finally:
        owner.close()
    _require_taken(view, stream, fates)


def verify_offered(view: FeatureView, rows: Sequence[Row], held: Rows) -> None:
    """Make sure that the fold's table has seen all these rows, so that they change nothing.

    Raises:
        Refused: One is newer than what the fold holds, or says something else under the same stamp: it is no row of
            this view's history. Nothing was changed.
    """
    stored = held.read([(view.name, row.key) for row in rows])
    for newest, row in zip(stored, rows, strict=True):
        if newest is None or (row.event, row.known) > (newest.event, newest.known) or _differs(row, newest):
            raise Refused(
                which=f"a row of {format_time(row.event)} is not in the history of view {view.name!r}, which only its "
                "fold writes",
                fix=_TO_STREAMS,
            )
    _log.info("%d rows of view %s were offered again: its fold holds them", len(rows), view.name, extra=_OFFERED)


def _differs(row: Row, newest: Row) -> bool:
    same_stamp = (row.event, row.known) == (newest.event, newest.known)
    return same_stamp and (newest.values is None or list(row.values or ()) != list(newest.values))


def _stream_of(view: FeatureView) -> str:
    if WINDOWS in view.tags:
        raise Refused(which=f"view {view.name!r} is written only by its fold, which computes it", fix=_TO_STREAMS)
    source = view.batch_source
    stream = source.tags.get(STREAM) if source is not None else None
    if stream is None:
        raise Refused(which=f"view {view.name!r} is written only by its fold, and no stream feeds it", fix=_TO_STREAMS)
    return str(stream)


def _event(project: str, stream: str, names: Sequence[str], written: Written) -> bytes:
    """A CloudEvent of one row; what is null is left out."""
    key, values, event, created = written
    said = [*key_values(key), *((name, scalar(values[name])) for name in names)]
    data: dict[str, Any] = {name: value for name, value in said if value is not None}
    moment = format_time(micros(event))
    # A correction back to an earlier value says what was said before, at another time.
    said_at = None if created is None else micros(created)
    content = orjson.dumps([project, stream, moment, data, said_at], option=orjson.OPT_SORT_KEYS)
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": hashlib.sha256(content).hexdigest(),
            "source": f"feast:{project}",
            "type": stream,
            "time": moment,
            "data": data,
        }
    )


def _require_taken(view: FeatureView, stream: str, fates: Sequence[Fate]) -> None:
    reasons = Counter(reason for fate in fates if (reason := _reason(fate)))
    if reasons:
        reason, count = reasons.most_common(1)[0]
        others = f" (and {reasons.total() - count} for other reasons)" if reasons.total() > count else ""
        raise Refused(
            which=f"{count} of {len(fates)} rows pushed to view {view.name!r} are not in stream {stream!r}: "
            f"{reason}{others}",
            fix="The others are in the journal. Mend these, then push again",
        )


def _reason(fate: Fate) -> str:
    match fate:
        case AcceptedFate() | RepeatedFate():
            return ""
        case RefusedFate() | QuarantinedFate():
            return fate.reason
        case ConflictedFate():
            return "its id is taken"
