"""Where a simulated process can die, and the one place where it will."""

import math
from random import Random

from journal.errors import DurabilityLost

FURTHEST = 400
"""About as many points as a long life passes."""

RARE = ("control decided", "blob put", "blob stored", "owner answered")
"""Points that a life passes a few times at most."""

_SHARE_OF_RARE_ENDS = 0.25
_SHARE_OF_FAILED_WRITES = 0.2


class Crash(BaseException):
    """The process dies here. No `except Exception` may outlive it."""


class Faults:
    """Counts the points that a life passes, and ends it at one of them.

    Attributes:
        died_at: Where each life that died did so.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._left: int | None = None
        self._only = ""
        self._fails_softly = False
        self.died_at: list[str] = []

    def arm(self) -> None:
        """Draw this life's end: early ends as likely as late ones, since a restart is where most can go wrong."""
        self._left = int(math.exp(self._chance.uniform(0, math.log(FURTHEST))))
        self._only = ""
        if self._chance.random() < _SHARE_OF_RARE_ENDS:
            self._only, self._left = self._chance.choice(RARE), self._chance.randrange(1, 3)
        self._fails_softly = self._chance.random() < _SHARE_OF_FAILED_WRITES

    def disarm(self) -> None:
        """Let this life go on."""
        self._left = None

    def reach(self, point: str, *, write: bool = False) -> None:
        """Pass a point, or die there.

        Args:
            point: Its name.
            write: Whether a write can fail here with an error, its process living on.

        Raises:
            Crash: The life ends here.
            DurabilityLost: The write fails.
        """
        if self._left is None or (self._only and point != self._only):
            return
        self._left -= 1
        if self._left > 0:
            return
        self._left = None
        if write and self._fails_softly:
            self.died_at.append(f"{point} failed")
            raise DurabilityLost(which=point, fix="Start again")
        self.died_at.append(point)
        raise Crash(point)
