"""Reading pickled model states by an allow-list: data and the classes of estimators, and nothing that can be called.

An allow-list reduces what a forged pickle can do: it runs nothing of its own, though it could still fill the memory or
set attributes on the listed classes. So the list is not why a state is trusted; its signature is, and that is checked
first (law 11).

The rules for every name that a pickle asks for:

- a builtin, a standard or a numpy name must stand in the list itself;
- anything else must be a class, defined at the top level of the very module that is named (so neither a module that
  another imports, nor a function, nor a dotted path), and the module must belong to a listed package.
"""

import io
import pickle
from typing import Any

from journal.errors import Untrusted

_BUILTINS = ("bool", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
_NUMPY = (
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
NAMES = frozenset(
    {
        *(("builtins", name) for name in _BUILTINS),
        *(("collections", name) for name in ("Counter", "OrderedDict", "defaultdict", "deque")),
        *(("datetime", name) for name in ("date", "datetime", "timedelta", "timezone")),
        ("random", "Random"),
        *_NUMPY,
    }
)
"""Every name that is allowed as it stands."""

# What the pickle module's documentation names, and what its opcodes raise on damaged bytes.
_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class AllowListUnpickler(pickle.Unpickler):
    """Finds what is on the list and refuses the rest by name."""

    def __init__(self, data: bytes, packages: tuple[str, ...], names: frozenset[tuple[str, str]]) -> None:
        super().__init__(io.BytesIO(data))
        self._packages = packages
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        """The class or function asked for; raises `Untrusted` when it is not allowed."""
        if (module, name) in self._names:
            return super().find_class(module, name)
        if "." not in name and any(module == package or module.startswith(f"{package}.") for package in self._packages):
            found = super().find_class(module, name)
            if isinstance(found, type) and (found.__module__, found.__qualname__) == (module, name):
                return found
        raise Untrusted(
            which=f"the pickle asks for {module}.{name}", fix="Nothing was run. Restore the state from its own line"
        )

    def persistent_load(self, pid: Any) -> Any:
        """Strings are stored as persistent ids (see the family's ``dump``); nothing else is."""
        if type(pid) is not str:
            raise Untrusted(which=f"the pickle asks for a persistent {type(pid).__name__}", fix="Nothing was run")
        return pid


def load_allowed(data: bytes, packages: tuple[str, ...], names: frozenset[tuple[str, str]] = NAMES) -> Any:
    """Unpickle by the allow-list.

    Args:
        data: The pickle.
        packages: Packages whose classes are allowed.
        names: (module, name) pairs that are allowed as they stand.

    Raises:
        Untrusted: It asks for something else, or is no pickle at all.
    """
    try:
        return AllowListUnpickler(data, packages, names).load()
    except _DAMAGE as error:
        raise Untrusted(
            which=f"the bytes are not a model's state ({type(error).__name__}: {error})",
            fix="Restore the state from its own line",
        ) from error
