"""Where a pipeline's state lives, and the few settings that come from the environment."""

from dataclasses import dataclass
from pathlib import Path

from journal.errors import NotWritable

HOME_VARIABLE = "RIVERMILL_HOME"
PIPELINES_VARIABLE = "RIVERMILL_PIPELINES"
PORT_VARIABLE = "RIVERMILL_PORT"
MLFLOW_PORT_VARIABLE = "RIVERMILL_MLFLOW_PORT"
REDIS_VARIABLE = "RIVERMILL_REDIS"
DEFAULT_HOME = ".rivermill"
DEFAULT_PORT = 8300
DEFAULT_MLFLOW_PORT = 8301


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one pipeline under the home."""

    root: Path
    pipeline: str

    @property
    def folder(self) -> Path:
        """Everything of this pipeline."""
        return self.root / self.pipeline

    @property
    def journal(self) -> Path:
        """The journal's segments."""
        return self.folder / "journal"

    @property
    def keys(self) -> Path:
        """Keys: outside the journal, so that a backup of it carries none."""
        return self.folder / "keys"

    @property
    def blobs(self) -> Path:
        """Checkpoints and snapshots, by content."""
        return self.folder / "blobs"

    def history(self, incarnation: str) -> Path:
        """View history in Delta, of one life of the journal: rows of another life are not its history."""
        return self.folder / "history" / incarnation

    @property
    def datasets(self) -> Path:
        """Dataset versions."""
        return self.folder / "datasets"

    @property
    def control(self) -> str:
        """The control log, as a database URL."""
        return f"sqlite:///{(self.folder / 'control.sqlite').absolute()}"

    @property
    def jobs(self) -> Path:
        """A folder per training job: its spec, its log, its result."""
        return self.folder / "jobs"

    @property
    def attempts(self) -> Path:
        """What the worker leaves about a batch that it may not survive; see `journal.poison`."""
        return self.folder / "folds" / "attempts.json"

    @property
    def socket(self) -> Path:
        """Where the journal's owner listens."""
        return self.folder / "owner.sock"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts, of all pipelines."""
        return self.root / "mlflow"

    @property
    def access(self) -> Path:
        """API keys, of all pipelines."""
        return self.root / "access"

    @property
    def feast(self) -> Path:
        """The Feast registry."""
        return self.folder / "feast"

    def fold(self, name: str) -> Path:
        """A fold's file."""
        return self.folder / "folds" / f"{name}.sqlite"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            NotWritable: The home cannot be written.
        """
        try:
            for folder in (self.keys, self.blobs, self.datasets, self.feast, self.jobs, self.fold("x").parent):
                folder.mkdir(parents=True, exist_ok=True)
            self.keys.chmod(0o700)
            probe = self.folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise NotWritable(
                which=f"{self.folder} ({error.strerror})", fix=f"Check its owner and mode, or set {HOME_VARIABLE}"
            ) from error

    @property
    def exists(self) -> bool:
        """Whether this pipeline has ever run here."""
        return self.journal.is_dir()


def pipelines_in(root: Path) -> list[str]:
    """Names of the pipelines that have run in a home."""
    return sorted(path.parent.name for path in root.glob("[!.]*/journal") if path.is_dir())


def configs_folder() -> Path:
    """The pipelines that come with Rivermill."""
    return Path(__file__).parent.parent / "configs"
