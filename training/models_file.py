"""A pipeline's ``models.py``, loaded by its path in whatever process a fit runs."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from journal.errors import Refused, UnknownName
from training.recipe import MakeClassifier


@dataclass(frozen=True, slots=True)
class ModelsFile:
    """Finds recipe functions. It travels to another process as a path and a hash.

    Attributes:
        path: The file.
        hash: SHA-256 (hex) that its content must have.
    """

    path: str
    hash: str

    def __call__(self, function: str) -> MakeClassifier:
        """One of the file's functions.

        Raises:
            Refused: The file is not what it was when the job was submitted.
            UnknownName: It does not define the function.
        """
        found: MakeClassifier | None = getattr(self._load(), function, None)
        if not callable(found):
            raise UnknownName(which=f"recipe function {function!r} in {Path(self.path).name}", fix="Define it there")
        return found

    def _load(self) -> ModuleType:
        # The name holds the content, so that two pipelines, or two states of one file, never share a module.
        name = f"rivermill_models_{self.hash[:12]}"
        known = sys.modules.get(name)
        if known is not None:
            return known
        code = compile(self._read(), self.path, "exec")
        module = ModuleType(name)
        module.__file__ = self.path
        exec(code, module.__dict__)
        sys.modules[name] = module
        return module

    def _read(self) -> bytes:
        path = Path(self.path)
        if not path.exists():
            raise UnknownName(which=f"{path.name}: there is no such file", fix="Submit the job again")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.hash:
            raise Refused(which=f"{path.name} has changed since the job was submitted", fix="Submit a new job")
        return content


def models_file(path: Path) -> ModelsFile:
    """The file as it is now."""
    return ModelsFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
