"""When something is due: on a fixed grid of journal time, from the pipeline's start on."""

from training.recipe import RetrainSettings


def next_moment(first: int, every: int, handled: int | None) -> int:
    """The first moment of a grid behind the last one that was handled; all in microseconds.

    Args:
        first: The grid's first moment.
        every: Its step.
        handled: The last moment that was handled, on the grid or not; None before the first.
    """
    if handled is None or handled < first:
        return first
    return first + ((handled - first) // every + 1) * every


def last_moment(first: int, every: int, clock: int) -> int | None:
    """The latest moment of a grid that the clock has reached: what was missed before it is not made up for."""
    return None if clock < first else first + (clock - first) // every * every


def next_trigger(settings: RetrainSettings, start: int, handled: int | None) -> int:
    """When the schedule asks for a retrain next.

    Args:
        settings: First moment (after the start) and step, in microseconds.
        start: Where the pipeline's time starts, in microseconds.
        handled: The trigger of the last retrain; None before the first.
    """
    return next_moment(start + settings.first, settings.every, handled)


def last_trigger(settings: RetrainSettings, start: int, clock: int) -> int | None:
    """The latest moment at which the schedule has asked for a retrain; None before the first."""
    return last_moment(start + settings.first, settings.every, clock)
