"""Signatures cover their parts in order; the key is nobody else's and never shows."""

import os
import stat
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from journal.errors import NotWritable, Untrusted
from registry.signing import Signer, Verifier, public_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signing.pem"


def test_what_was_signed_verifies_with_either_key_and_after_a_restart(path: Path) -> None:
    parts = ("online", "river", b"\x00\xff", "")
    signature = Signer.open(path).sign(*parts)
    assert len(bytes.fromhex(signature)) == 64
    Signer.open(path).verify(signature, *parts)
    Verifier.open(public_path(path)).verify(signature, *parts)


@pytest.mark.parametrize(
    "parts",
    [("ab", "c"), ("a", "bc", ""), ("", "a", "bc"), ("abc",), ("bc", "a"), ("a",), (), ("a", "bd")],
)
def test_parts_cannot_be_shifted_dropped_reordered_or_changed(path: Path, parts: tuple[str, ...]) -> None:
    signer = Signer.open(path)
    signature = signer.sign("a", "bc")
    signer.verify(signature, b"a", "bc")
    with pytest.raises(Untrusted, match=r"does not hold.*whose signature holds"):
        signer.verify(signature, *parts)


def test_a_flipped_bit_another_key_and_no_signature_at_all_are_refused(path: Path) -> None:
    signer = Signer.open(path)
    signature = signer.sign("a")
    raw = bytearray.fromhex(signature)
    raw[10] ^= 1
    for wrong in (
        raw.hex(),
        Signer.open(path.with_name("other")).sign("a"),
        "",
        "zz",
        signature[:-2],
        signature + "00",
    ):
        with pytest.raises(Untrusted, match="does not hold"):
            signer.verify(wrong, "a")


def test_the_key_file_is_the_owners_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        Signer.open(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.pub"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    Signer.open(path)
    path.chmod(mode)
    with pytest.raises(Untrusted, match=rf"has mode {mode:04o}.*chmod 600"):
        Signer.open(path)


def test_of_two_first_starts_one_key_wins(path: Path) -> None:
    """The second start finds the first's key: it never writes over one."""
    first = Signer.open(path)
    inode = path.stat().st_ino
    signatures = [Signer.open(path).sign("a") for _ in range(3)]
    assert path.stat().st_ino == inode
    assert all(one == two for one, two in pairwise([first.sign("a"), *signatures]))


def test_a_lost_public_key_is_written_again(path: Path) -> None:
    signature = Signer.open(path).sign("a")
    public_path(path).write_text("something else")
    Signer.open(path)
    Verifier.open(public_path(path)).verify(signature, "a")


def test_what_is_no_key_is_refused(path: Path) -> None:
    with pytest.raises(Untrusted, match="holds no Ed25519 key"):
        Verifier.open(path)
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(Untrusted, match="holds no Ed25519 key"):
        Signer.open(path)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(Untrusted, match="holds no Ed25519 key"):
        Signer.open(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match="Check the folder"):
        Signer.open(tmp_path / "missing" / "signing.pem")


def test_the_key_never_shows(path: Path) -> None:
    signer = Signer.open(path)
    secret = signer._private.private_bytes_raw()
    shown = f"{signer!r} {signer} {vars(signer)}"
    assert secret.hex() not in shown
    assert repr(secret) not in shown
    assert "BEGIN" not in shown
