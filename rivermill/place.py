"""Where a command works, and what the commands have in common."""

import os
from pathlib import Path

import click

from journal.errors import UnknownName
from rivermill.settings import DEFAULT_PORT, PORT_VARIABLE, Home

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
pipeline_argument = click.argument("pipeline")


class Place:
    """Where this command works: the home, and the folder of pipelines."""

    def __init__(self, home: Path, pipelines: Path) -> None:
        self.home, self.pipelines = home, pipelines

    @property
    def port(self) -> int:
        """Where `rivermill up` answers, unless it is told otherwise."""
        return int(os.environ.get(PORT_VARIABLE, DEFAULT_PORT))

    def folder(self, pipeline: str) -> Path:
        """A pipeline's folder: a path to one, or a name among the pipelines."""
        given = Path(pipeline)
        return given if (given / "pipeline.yaml").exists() else self.pipelines / pipeline

    def home_of(self, pipeline: str) -> Home:
        """A pipeline's home, by the pipeline's name or folder."""
        return Home(self.home, self.folder(pipeline).resolve().name)

    def existing(self, pipeline: str) -> Home:
        """The same of a pipeline that has run here; raises UnknownName."""
        home = self.home_of(pipeline)
        if not home.exists:
            raise UnknownName(
                which=f"no state of {home.pipeline!r} in {home.root}", fix="Run it first, or name another --home"
            )
        return home
