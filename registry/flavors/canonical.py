"""A canonical digest of an object's state, whatever process built it and however often it was pickled.

Pickle bytes are no such thing: they show which equal objects happened to be one object. Here every value is written by
content: a container or an object becomes the SHA-256 of its parts (so a part that is shared and a part that is copied
read the same), dicts and sets are sorted, floats are their eight bytes. An object's parts are what it would pickle. A
part that leads back to an object around it (a tree node's parent) becomes the number of steps back.
"""

import hashlib
import math
import struct
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

Reduced = str | tuple[Any, ...]
Reduce = Callable[[Any], Reduced]

_pack_float = struct.Struct(">d").pack
_PROTOCOL = 4
_NAMED = (type, FunctionType, BuiltinFunctionType)


def _tagged(tag: bytes, content: bytes) -> bytes:
    return b"%c%d:%s" % (tag, len(content), content)


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"-",
    bool: lambda value: b"1" if value else b"0",
    int: lambda value: _tagged(b"i", b"%d" % value),
    float: lambda value: b"f" + _pack_float(value),
    str: lambda value: _tagged(b"s", value.encode()),
    bytes: lambda value: _tagged(b"y", value),
}


def reduce_plainly(value: object) -> Reduced:
    """The parts that pickle would store."""
    return value.__reduce_ex__(_PROTOCOL)


def state_digest(value: object, reduce: Reduce = reduce_plainly) -> str:
    """SHA-256 (hex) of a value's canonical content.

    Args:
        value: Any picklable object.
        reduce: Gives an object's parts as ``__reduce_ex__`` does; a family leaves out what is not state.
    """
    return hashlib.sha256(_Walk(reduce).write(value)).hexdigest()


def all_finite(value: object, reduce: Reduce = reduce_plainly) -> bool:
    """Whether no float in a value's content is infinite or not a number."""
    walk = _Walk(reduce)
    walk.write(value)
    return walk.finite


class _Walk:
    """One traversal. What was written is remembered by identity, so a shared part costs once."""

    def __init__(self, reduce: Reduce) -> None:
        self.finite = True
        self._reduce = reduce
        self._written: dict[int, bytes] = {}
        self._alive: list[object] = []
        self._open: dict[int, int] = {}

    def write(self, value: Any) -> bytes:
        """The self-delimiting canonical bytes of one value."""
        kind = type(value)
        if kind is float and not math.isfinite(value):
            self.finite = False
        atom = _ATOMS.get(kind)
        return atom(value) if atom else self._composite(value)

    def _composite(self, value: Any) -> bytes:
        identity = id(value)
        written = self._written.get(identity)
        if written is not None:
            return written
        if identity in self._open:
            return b"^%d;" % (len(self._open) - self._open[identity])
        self._open[identity] = len(self._open)
        written = self._written[identity] = b"#" + hashlib.sha256(self._content(value)).digest()
        del self._open[identity]
        # An identity may only be remembered as long as its object lives.
        self._alive.append(value)
        return written

    def _content(self, value: Any) -> bytes:
        kind = type(value)
        if kind is dict:
            return b"d" + self._pairs(value.items())
        if kind is list or kind is tuple:
            return (b"l" if kind is list else b"t") + b"".join(map(self.write, value))
        if kind is set or kind is frozenset:
            return b"u" + b"".join(sorted(map(self.write, value)))
        if isinstance(value, _NAMED):
            return _tagged(b"n", f"{value.__module__}.{value.__qualname__}".encode())
        return b"o" + self._object(value)

    def _object(self, value: Any) -> bytes:
        reduced = self._reduce(value)
        if isinstance(reduced, str):
            return self.write(reduced)
        self._alive.append(reduced)
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        parts = [self.write(make), self.write(arguments), self.write(state)]
        parts += map(self.write, items or ())
        parts.append(b"|" + self._pairs(pairs or (), ordered=isinstance(value, OrderedDict)))
        return b"".join(parts)

    def _pairs(self, pairs: Any, *, ordered: bool = False) -> bytes:
        written = [self.write(key) + self.write(item) for key, item in pairs]
        return b"".join(written if ordered else sorted(written))
