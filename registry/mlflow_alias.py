"""The alias ``champion``: a projection of the control log, never its source.

What was projected last stands in the registered model's tags. An alias that names neither that nor what was being
projected when somebody died has been edited behind our back: it is reported and put back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from journal.errors import LostRace, UnknownName
from registry.mlflow_client import absent
from registry.mlflow_versions import LINE, OFFSET, find

ALIAS = "champion"
_PROJECTED = "rivermill.champion"
_PROJECTING = "rivermill.champion_next"
_SEQUENCE = "rivermill.control_sequence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """What MLflow says of a pipeline's champion.

    Attributes:
        version: MLflow's number that the alias names; None when there is no alias.
        line: The line of that version; None when there is no alias, or the version is none of ours.
        offset: Of that version's record in the journal; None as above.
        sequence: The control decision that was projected last; 0 before the first.
        edited: Whether the alias names something that was not projected.
    """

    version: int | None
    line: str | None
    offset: int | None
    sequence: int
    edited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a projection did.

    Attributes:
        pipeline: Whose champion.
        line: The line that the alias names now.
        version: Its number in MLflow.
        before: What MLflow said before.
        moved: Whether the alias was set.
    """

    pipeline: str
    line: str
    version: int
    before: Champion
    moved: bool

    @property
    def edited(self) -> bool:
        """Whether somebody else had moved the alias, which is now put back."""
        return self.before.edited


def read(client: Any, pipeline: str) -> Champion:
    """What the alias names, and whether we put it there; raises UnknownName for a pipeline without versions."""
    return _seen(client, pipeline, _model(client, pipeline).tags)


def project(client: Any, pipeline: str, line: str, sequence: int) -> Projection:
    """Let the alias name the newest version of a line, because a control decision says so.

    Raises:
        UnknownName: The line has no version here; log it first.
        LostRace: A later decision has been projected.
    """
    tags = _model(client, pipeline).tags
    before = _seen(client, pipeline, tags)
    if sequence < before.sequence:
        raise LostRace(
            which=f"decision {sequence} of {pipeline}: decision {before.sequence} is projected already",
            fix="Read the control log again and project its head",
        )
    target = find(client, pipeline, LINE, line)
    if target is None:
        raise UnknownName(which=f"line {line!r} has no version of {pipeline} in MLflow", fix="Log it, then project")
    number = str(target.version)
    moved = before.version != int(number)
    if moved:
        client.set_registered_model_tag(pipeline, _PROJECTING, number)
        client.set_registered_model_alias(pipeline, ALIAS, number)
    # What somebody who died was about to project does not stand for long: an edit to just that would not be seen.
    if moved or before.sequence != sequence or tags.get(_PROJECTING) != number:
        _remember(client, pipeline, number, sequence)
    return Projection(pipeline=pipeline, line=line, version=int(number), before=before, moved=moved)


def _seen(client: Any, pipeline: str, tags: Mapping[str, str]) -> Champion:
    version = _aliased(client, pipeline)
    number = str(version.version) if version else ""
    return Champion(
        version=int(number) if version else None,
        line=version.tags.get(LINE) if version else None,
        offset=int(version.tags[OFFSET]) if version and OFFSET in version.tags else None,
        sequence=int(tags.get(_SEQUENCE, 0)),
        edited=number not in (tags.get(_PROJECTED, ""), tags.get(_PROJECTING, "")),
    )


def _remember(client: Any, pipeline: str, number: str, sequence: int) -> None:
    client.set_model_version_tag(pipeline, number, _SEQUENCE, str(sequence))
    client.set_registered_model_tag(pipeline, _PROJECTING, number)
    client.set_registered_model_tag(pipeline, _PROJECTED, number)
    client.set_registered_model_tag(pipeline, _SEQUENCE, str(sequence))


def _model(client: Any, pipeline: str) -> Any:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        return client.get_registered_model(pipeline)
    except MlflowException as error:
        if not absent(error):
            raise
        raise UnknownName(which=f"pipeline {pipeline!r} has no version in MLflow", fix="Log one first") from error


def _aliased(client: Any, pipeline: str) -> Any:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        return client.get_model_version_by_alias(pipeline, ALIAS)
    except MlflowException as error:
        if not absent(error):
            raise
        return None
