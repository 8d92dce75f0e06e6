"""When a retrain is due: on a fixed grid of journal time, from the pipeline's start on."""

from training.recipe import RetrainSettings


def next_trigger(settings: RetrainSettings, start: int, handled: int | None) -> int:
    """The first moment of the grid behind the last one that was handled.

    Args:
        settings: First moment (after the start) and step, in microseconds.
        start: Where the pipeline's time starts, in microseconds.
        handled: The trigger of the last retrain; None before the first.
    """
    first = start + settings.first
    if handled is None or handled < first:
        return first
    return first + ((handled - first) // settings.every + 1) * settings.every


def last_trigger(settings: RetrainSettings, start: int, clock: int) -> int | None:
    """The latest moment of the grid that the clock has reached: what was missed before it is not made up for."""
    first = start + settings.first
    if clock < first:
        return None
    return first + (clock - first) // settings.every * settings.every
