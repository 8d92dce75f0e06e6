"""Who may write for a sink: the newest writer that claimed it."""

from collections.abc import Mapping, Sequence

from journal.errors import Fenced
from journal.wire import Batch


class SinkEpochs:
    """The highest epoch that is known for each sink. Older writers are refused."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def claim(self, epochs: Mapping[str, int]) -> dict[str, int]:
        """Grant a writer its epochs: above every one known, and not below what its files say."""
        granted = {sink: max(epoch, self._known.get(sink, 0) + 1) for sink, epoch in epochs.items()}
        self._known.update(granted)
        return granted

    def refusal(self, batches: Sequence[Batch]) -> Fenced | None:
        """Why these batches are not appended; None when they are, and then their epochs are known."""
        for batch in batches:
            known = self._known.get(batch.sink, 0)
            if batch.sink and batch.epoch < known:
                return Fenced(
                    which=f"sink {batch.sink!r} at epoch {known}, and this writer's is {batch.epoch}",
                    fix="Nothing was appended. One worker at a time writes a pipeline's folds: stop this one",
                )
        self._known.update({batch.sink: batch.epoch for batch in batches if batch.sink})
        return None
