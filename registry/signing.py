"""Signatures under published states: Ed25519, one key per home, outside the database it vouches for.

A signature covers a list of parts, each behind its length, so that bytes cannot move from one part to the next. Whoever
only reads has a `Verifier`, which holds nothing secret.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from journal.blobs import sync_folder, write_durably
from journal.errors import NotWritable, Untrusted

_OWNER_ONLY = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LENGTH_BYTES = 8


class Verifier:
    """Checks signatures with the public key alone."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a public key (PEM); raises `Untrusted` when there is none or it is damaged."""
        key = _parsed(path, load_pem_public_key)
        if not isinstance(key, Ed25519PublicKey):
            raise _not_a_key(path)
        return cls(key)

    def verify(self, signature: str, *parts: bytes | str) -> None:
        """Return when this key signed exactly these parts.

        Args:
            signature: What `Signer.sign` gave, in hex.
            parts: The parts in the order they were signed.

        Raises:
            Untrusted: It did not.
        """
        try:
            self._public.verify(bytes.fromhex(signature), _message(parts))
        except (InvalidSignature, ValueError) as error:
            raise Untrusted(
                which=f"signature {signature[:16]!r} over {len(parts)} parts does not hold",
                fix="Go back to a snapshot whose signature holds",
            ) from error


class Signer(Verifier):
    """Signs with the private key; its public key lies beside it as ``<name>.pub``."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        super().__init__(private.public_key())
        self._private = private

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the key file, or create it (mode 0600) the first time.

        Raises:
            Untrusted: Others may read the file, or it is no Ed25519 key.
            NotWritable: It can be neither read nor created.
        """
        try:
            if not path.exists():
                _create(path)
            _refuse_open_to_others(path)
            key = _parsed(path, lambda pem: load_pem_private_key(pem, password=None))
            if not isinstance(key, Ed25519PrivateKey):
                raise _not_a_key(path)
            _publish(path, key)
        except OSError as error:
            raise NotWritable(which=f"{path} ({error})", fix="Check the folder's owner and mode") from error
        return cls(key)

    def sign(self, *parts: bytes | str) -> str:
        """The signature over these parts in this order, in hex."""
        return self._private.sign(_message(parts)).hex()


def public_path(path: Path) -> Path:
    """Where the public key of a key file lies."""
    return path.with_name(f"{path.name}.pub")


def _message(parts: tuple[bytes | str, ...]) -> bytes:
    written = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(_LENGTH_BYTES) + part for part in written)


def _create(path: Path) -> None:
    """Write the whole key beside its place and link it there: of two first starts, one key wins."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(handle)
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    sync_folder(path.parent)


def _publish(path: Path, key: Ed25519PrivateKey) -> None:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public = public_path(path)
    if not public.exists() or public.read_bytes() != pem:
        write_durably(public, pem)


def _refuse_open_to_others(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        raise Untrusted(
            which=f"the key file {path} has mode {mode:04o}",
            fix=f"Others may have read it: delete it to get another, or run chmod 600 {path} if you know better",
        )


def _parsed(path: Path, parse: Callable[[bytes], object]) -> object:
    try:
        return parse(path.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise _not_a_key(path) from error


def _not_a_key(path: Path) -> Untrusted:
    return Untrusted(which=f"{path} holds no Ed25519 key", fix="Restore it from a backup")
