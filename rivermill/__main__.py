"""``python -m rivermill``."""

from rivermill.cli import main

main()
