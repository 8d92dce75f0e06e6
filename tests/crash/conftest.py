"""What crash tests share: they print what they counted."""

import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print, though pytest captures."""

    def said(text: str) -> None:
        with capfd.disabled():
            sys.stdout.write(f"\n{text}\n")

    return said
