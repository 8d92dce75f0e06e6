"""A rule about many events of a stream together: how large a share of them may be bad."""

from dataclasses import dataclass
from typing import Literal

Metric = Literal["missing", "invalid", "late", "reference", "unique"]
"""What a quality rule measures the share of."""


@dataclass(frozen=True, kw_only=True)
class QualityRule:
    """How much of a stream may be bad, measured over windows of journal time.

    Attributes:
        name: What an alert calls it.
        field: The field that it is about; empty for ``late``, which is about whole events.
        metric: ``missing`` (null, or its value discarded), ``invalid`` (in quarantine for this field), ``late`` (later
            than the contract's timeliness), ``reference`` (a value that the other stream has not said before),
            ``unique`` (a value that came before within the window).
        most: The share that may be so, 0 to 1.
        window: How long one window is, in microseconds.
        stop: Whether a breach stops the stage.
        reference: For ``reference``: ``STREAM.FIELD``, whose values this field's must be among.
    """

    name: str
    field: str
    metric: Metric
    most: float
    window: int
    stop: bool = False
    reference: str = ""
