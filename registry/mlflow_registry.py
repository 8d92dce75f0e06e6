"""MLflow as a mirror of our registry: what people look at and any MLflow user can load. Nothing is served from it.

Versions, champions and their evidence are the journal's and the control log's. Each verb here can be called again after
a crash, and with MLflow down raises `RegistryDown` within seconds, while decisions hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry import mlflow_alias, mlflow_client, mlflow_versions
from registry.mlflow_alias import Champion, Projection
from registry.mlflow_versions import VersionFacts
from registry.pyfunc.portable import portable_of


@dataclass(frozen=True, slots=True)
class MlflowRegistry:
    """One MLflow store.

    Attributes:
        tracking_uri: ``sqlite:///<file>`` to write to the server's own store, or the URL of a server.
        artifacts: The folder of the artifacts of every pipeline.
        ui: Where people find MLflow's UI; empty when nobody runs it.
    """

    tracking_uri: str
    artifacts: Path
    ui: str = ""

    def prepare(self) -> None:
        """Create the store's tables where they are missing (seconds, once), before a server and we both would."""
        with mlflow_client.reaching(self.tracking_uri) as client:
            client.search_experiments(max_results=1)

    def log_version(self, facts: VersionFacts) -> int:
        """Log a batch version and return its number; the same line again mends what is missing of it.

        Raises:
            ConflictingId: The line is taken by another model.
            RegistryDown: MLflow does not answer.
        """
        return self._log(facts, facts.line)

    def log_online(self, facts: VersionFacts) -> int:
        """Log a snapshot of an online line, named by its offset, when the line is champion or becomes it."""
        return self._log(facts, f"{facts.line}@{facts.offset}")

    def project_champion(self, pipeline: str, line: str, sequence: int) -> Projection:
        """Let the alias ``champion`` follow a decision, and say what it named before.

        Args:
            pipeline: Whose champion.
            line: What the decision names; the newest version of it is meant.
            sequence: The decision's place in the control log.

        Raises:
            UnknownName: The line has no version here yet.
            LostRace: A later decision has been projected.
            RegistryDown: MLflow does not answer.
        """
        with mlflow_client.reaching(self.tracking_uri) as client:
            return mlflow_alias.project(client, pipeline, line, sequence)

    def read_champion(self, pipeline: str) -> Champion:
        """What the alias names, and whether it was edited; raises UnknownName, RegistryDown."""
        with mlflow_client.reaching(self.tracking_uri) as client:
            return mlflow_alias.read(client, pipeline)

    def url(self, pipeline: str, version: int) -> str:
        """Where people see a version; empty without a UI."""
        return f"{self.ui.rstrip('/')}/#/models/{pipeline}/versions/{version}" if self.ui else ""

    def server_command(self, host: str, port: int) -> tuple[Sequence[str], dict[str, str]]:
        """See `mlflow_client.server_command`."""
        return mlflow_client.server_command(self.tracking_uri, self.artifacts, host, port)

    def _log(self, facts: VersionFacts, name: str) -> int:
        carried = portable_of(facts.family, facts.model_bytes)
        with mlflow_client.reaching(self.tracking_uri) as client:
            return mlflow_versions.log(client, facts, name, carried, self.artifacts)
