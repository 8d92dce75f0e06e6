"""A pipeline's ``adapters.py``: the functions that lift records of earlier versions."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from journal.contract import Contract
from journal.located import Mistakes
from journal.upcast import Adapter, Adapters, adapter_name
from rivermill.source_file import load_module

ADAPTERS = "adapters.py"


def load_adapters(folder: Path, contracts: Mapping[str, Contract]) -> Adapters:
    """Read the adapters that a pipeline's earlier contracts need; without such contracts there is nothing to read.

    Raises:
        Misconfigured: The file is missing, does not run, or lacks an adapter.
    """
    mistakes = Mistakes()
    adapters = read_adapters(folder, contracts, mistakes)
    mistakes.raise_all(f"the adapters of {folder.name}", "Mend what is named, then try again")
    return adapters


def read_adapters(folder: Path, contracts: Mapping[str, Contract], mistakes: Mistakes) -> Adapters:
    """The same, with what is wrong noted; what is then given must not be used."""
    path = folder / ADAPTERS
    needed = dict(_steps(contracts))
    if not needed:
        if path.exists():
            mistakes.add(ADAPTERS, "no contract of an earlier version stands beside the current ones; leave it out")
        return Adapters({}, {})
    functions = _functions(folder, needed, mistakes)
    if functions.keys() != needed.keys():
        return Adapters({}, {})
    return Adapters(contracts, functions, file=path.name, source=path.read_bytes())


def _steps(contracts: Mapping[str, Contract]) -> Iterator[tuple[str, str]]:
    """Each adapter's name, and what it is for."""
    for contract in contracts.values():
        versions = (contract, *contract.earlier)
        for newer, older in zip(versions, contract.earlier, strict=False):
            name = adapter_name(contract.stream, older.major, newer.major)
            yield name, f"version {older.major} of stream {contract.stream!r}"


def _functions(folder: Path, needed: Mapping[str, str], mistakes: Mistakes) -> dict[str, Adapter]:
    module = load_module(folder.resolve().name, folder / ADAPTERS, mistakes)
    if module is None:
        return {}
    functions: dict[str, Adapter] = {}
    for name, what in needed.items():
        function = getattr(module, name, None)
        if callable(function):
            functions[name] = function
        else:
            mistakes.add(ADAPTERS, f"no function {name}(data): nothing lifts {what}")
    return functions
