"""Session windows over any summary: runs of records with less than a gap between one and the next.

Rules:

- Two records that follow each other within less than ``gap`` are of one session. A session is open until the clock
  reaches its last record's time plus the gap; at most one is open at a time.
- A pane shows the open session; or, where it says ``keep``, the newest closed one, until ``keep`` after it closed.
- When the clock changes which session is shown, the entity gets a row.
- A late record may lengthen a session, open it again, merge two, or be a session of its own. Only an event later than
  the allowed lateness, which a decision released, changes none: what was around it may be gone.
- A session that no record can reach any more is final. Final sessions are let go, but for one that is still shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from features.closing import Closing
from features.measure import Measure, Sample
from features.rows import FieldValue
from features.summaries import Partial, Summary


@dataclass(frozen=True, slots=True)
class SessionPane:
    """Sessions of one stream and what they say of their records; spans in microseconds, ``keep`` 0 for the open one."""

    stream: str
    measure: Measure
    gap: int
    keep: int
    lateness: int
    summary: Summary

    def open(self, values: list[FieldValue]) -> "Sessions":
        """The empty state of one entity, which writes its features into ``values``."""
        return Sessions(self, values)


class Session:
    """One session: the times of its first and last record, and the partial of all."""

    __slots__ = ("end", "partial", "start")

    def __init__(self, start: int, end: int, partial: Partial) -> None:
        self.start, self.end, self.partial = start, end, partial


class Sessions(Closing):
    """The sessions that are not final yet, oldest first, and the final one that may still be shown."""

    __slots__ = ("_pane", "_sessions", "_shown", "_values")

    def __init__(self, pane: SessionPane, values: list[FieldValue]) -> None:
        super().__init__()
        self._pane, self._values = pane, values
        self._sessions: list[Session] = []
        self._shown: Session | None = None
        pane.summary.show(None, values)

    def add(self, sample: Sample) -> int | None:
        """Let the record lengthen, merge or begin a session; return when to wake this state, if that is news."""
        time, clock, pane = sample[0], sample[2], self._pane
        if time < clock - pane.lateness:
            return None
        if self._sessions:
            newest = self._sessions[-1]
            closes = newest.end + pane.gap
            if newest.start <= time < closes > clock:
                newest.end = max(newest.end, time)
                newest.partial = pane.summary.take(newest.partial, sample)
                if not pane.keep:
                    pane.summary.show(newest.partial, self._values)
                return None
        self._place(sample)
        self.settle(clock)
        return self.wake_at(clock)

    def _place(self, sample: Sample) -> None:
        time, gap, summary = sample[0], self._pane.gap, self._pane.summary
        near = [session for session in self._sessions if session.start - gap < time < session.end + gap]
        others = [session for session in self._sessions if session not in near]
        if near:
            partial = near[0].partial if len(near) == 1 else summary.merge([session.partial for session in near])
            start, end = min(near[0].start, time), max(near[-1].end, time)
            session = Session(start, end, summary.take(partial, sample))
        else:
            session = Session(time, time, summary.take(None, sample))
        self._sessions = sorted([*others, session], key=lambda each: each.start)

    def settle(self, clock: int) -> bool:
        """Let go of what is final and show what is to be shown; whether that is another session now."""
        horizon = clock - self._pane.gap - self._pane.lateness
        final = [session for session in self._sessions if session.end <= horizon]
        kept = [session for session in final[-1:] if self._expires(session) > clock]
        self._sessions = kept + self._sessions[len(final) :]
        shown = self._to_show(clock)
        changed = shown is not self._shown
        self._shown = shown
        self._pane.summary.show(shown and shown.partial, self._values)
        return changed

    def _expires(self, session: Session) -> int:
        return session.end + self._pane.gap + self._pane.keep

    def _to_show(self, clock: int) -> Session | None:
        gap = self._pane.gap
        if not self._pane.keep:
            open_ = [session for session in self._sessions[-1:] if session.end + gap > clock]
            return open_[0] if open_ else None
        closed = [session for session in self._sessions if session.end + gap <= clock]
        return closed[-1] if closed and self._expires(closed[-1]) > clock else None

    def next_boundary(self, clock: int) -> int | None:
        """When the first session closes, is final or expires."""
        return min((boundary for boundary in self._all_boundaries() if boundary > clock), default=None)

    def _all_boundaries(self) -> Iterator[int]:
        for session in self._sessions:
            closes = session.end + self._pane.gap
            yield from (closes, closes + self._pane.lateness, closes + self._pane.keep)

    def is_empty(self) -> bool:
        """Whether it is as if no record had ever come."""
        return not self._sessions

    def dump(self) -> Any:
        """(start, end, partial) of each session, oldest first."""
        return [(each.start, each.end, self._pane.summary.dump(each.partial)) for each in self._sessions]

    def load(self, content: Any, clock: int) -> None:
        """Take back what `dump` gave when the clock stood there."""
        load = self._pane.summary.load
        self._sessions = [Session(start, end, load(partial)) for start, end, partial in content]
        self.settle(clock)
        self._due = self.next_boundary(clock)
