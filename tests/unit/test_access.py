"""API keys: what opens, what does not, and what the file that holds their hashes must never say or allow."""

import stat
import threading
from pathlib import Path

import pytest

from journal.errors import ConflictingId, Misconfigured, NoKey, NotAllowed, UnknownName, Untrusted
from rivermill.access import ADMIN, ROLES, KeyRing, Principal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "access"


@pytest.fixture
def ring(folder: Path) -> KeyRing:
    return KeyRing.open(folder)


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def test_the_first_key_is_an_admins_and_only_its_owner_can_read_it(ring: KeyRing, folder: Path) -> None:
    secret = ring.admin_path.read_text().strip()
    assert ring.principal_of(bearer(secret)) == Principal(ADMIN, frozenset({ADMIN}), frozenset())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("admin.key", "keys.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_opened_again_it_is_the_same_ring(ring: KeyRing, folder: Path) -> None:
    before = (folder / "keys.json").read_bytes()
    again = KeyRing.open(folder)
    assert (folder / "keys.json").read_bytes() == before
    assert again.principal_of(bearer(ring.admin_path.read_text().strip())).name == ADMIN


def test_no_file_holds_a_key_that_was_added(ring: KeyRing, folder: Path) -> None:
    secret = ring.add("ops", ["auditor"])
    assert all(secret.encode() not in path.read_bytes() for path in folder.iterdir())


def test_no_two_keys_are_equal(ring: KeyRing) -> None:
    assert ring.add("a", ["trainer"]) != ring.add("b", ["trainer"])


def test_a_key_carries_its_name_roles_and_pipelines(ring: KeyRing) -> None:
    secret = ring.add("gate", ["producer", "labeler"], ["flights"])
    expected = Principal("gate", frozenset({"producer", "labeler"}), frozenset({"flights"}))
    assert ring.principal_of(bearer(secret)) == expected
    assert ring.principal_of(None, secret) == expected


@pytest.mark.parametrize("form", ["bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_a_scheme_is_read_in_any_case_and_blanks_around_the_key_do_not_count(ring: KeyRing, form: str) -> None:
    assert ring.principal_of(form.format(ring.add("a", ["trainer"]))).name == "a"


@pytest.mark.parametrize(
    "form", [None, "", "Bearer", "Bearer ", "Bearer   ", "{}", "Basic {}", "Bearer x{}", "Bearer {}x"]
)
def test_what_is_no_key_opens_nothing(ring: KeyRing, form: str | None) -> None:
    secret = ring.add("a", ["admin"])
    with pytest.raises(NoKey) as caught:
        ring.principal_of(form and form.format(secret))
    assert secret not in str(caught.value)


def test_the_hash_that_is_stored_is_no_key(ring: KeyRing, folder: Path) -> None:
    stored = (folder / "keys.json").read_text().split('"hash":"')[1].split('"')[0]
    with pytest.raises(NoKey):
        ring.principal_of(bearer(stored))


def test_the_authorization_header_goes_before_the_other(ring: KeyRing) -> None:
    good = ring.add("a", ["trainer"])
    with pytest.raises(NoKey):
        ring.principal_of("Bearer nonsense", good)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("a", []),
        ("a", ["root"]),
        ("a", ["trainer", "Root"]),
        ("", ["trainer"]),
        ("a\nb", ["trainer"]),
        ("\0", ["admin"]),
    ],
)
def test_a_key_without_a_name_or_a_known_role_is_not_made(ring: KeyRing, name: str, roles: list[str]) -> None:
    before = ring.list()
    with pytest.raises(Misconfigured):
        ring.add(name, roles)
    assert ring.list() == before


def test_a_name_has_one_key(ring: KeyRing) -> None:
    first = ring.add("a", ["trainer"])
    with pytest.raises(ConflictingId):
        ring.add("a", ["admin"])
    assert ring.principal_of(bearer(first)).roles == {"trainer"}


def test_a_revoked_key_opens_nothing_from_the_next_request_on_also_in_another_process(
    ring: KeyRing, folder: Path
) -> None:
    other, secret = KeyRing.open(folder), ring.add("a", ["trainer"])
    assert other.principal_of(bearer(secret)).name == "a"
    ring.revoke("a")
    with pytest.raises(NoKey):
        other.principal_of(bearer(secret))
    with pytest.raises(UnknownName):
        ring.revoke("a")
    assert ring.principal_of(bearer(ring.add("a", ["admin"]))).roles == {"admin"}


def test_what_is_listed_says_who_and_no_secret(ring: KeyRing) -> None:
    ring.add("a", ["trainer"], ["flights"])
    assert list(ring.list()) == [
        {"name": "admin", "roles": ["admin"], "pipelines": "all"},
        {"name": "a", "roles": ["trainer"], "pipelines": ["flights"]},
    ]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_is_open_to_others_is_not_relied_on(ring: KeyRing, folder: Path, mode: int) -> None:
    secret = ring.admin_path.read_text().strip()
    (folder / "keys.json").chmod(mode)
    with pytest.raises(Untrusted):
        KeyRing.open(folder)
    with pytest.raises(Untrusted):
        ring.principal_of(bearer(secret))
    with pytest.raises(Untrusted):
        ring.add("a", ["trainer"])


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'[{"name":"a"}]', b"\xff\xfe", b"null"])
def test_a_damaged_file_opens_nothing_and_is_not_written_over(ring: KeyRing, folder: Path, content: bytes) -> None:
    secret = ring.admin_path.read_text().strip()
    (folder / "keys.json").write_bytes(content)
    with pytest.raises(Untrusted):
        KeyRing.open(folder)
    with pytest.raises(Untrusted):
        ring.principal_of(bearer(secret))
    with pytest.raises(Untrusted):
        ring.add("a", ["trainer"])
    assert (folder / "keys.json").read_bytes() == content


def test_with_the_file_gone_no_key_opens_anything(ring: KeyRing, folder: Path) -> None:
    secret = ring.admin_path.read_text().strip()
    (folder / "keys.json").unlink()
    with pytest.raises(Untrusted):
        ring.principal_of(bearer(secret))


def test_keys_that_are_made_at_the_same_time_are_all_there(folder: Path) -> None:
    KeyRing.open(folder)
    names = [f"k{n}" for n in range(8)]
    makers = [threading.Thread(target=lambda name=name: KeyRing.open(folder).add(name, ["trainer"])) for name in names]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert {row["name"] for row in KeyRing.open(folder).list()} == {ADMIN, *names}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_what_it_is_allowed_to_and_an_admin_everything(role: str) -> None:
    principal = Principal("a", frozenset({role}), frozenset())
    principal.require(frozenset({role}), "flights")
    if role == ADMIN:
        principal.require(frozenset(), None)
        return
    with pytest.raises(NotAllowed, match="admin"):
        principal.require(frozenset(ROLES) - {role, ADMIN}, "flights")


def test_nobody_but_an_admin_may_what_is_allowed_to_nobody() -> None:
    everything_else = Principal("a", frozenset(ROLES) - {ADMIN}, frozenset())
    with pytest.raises(NotAllowed):
        everything_else.require(frozenset(), None)


@pytest.mark.parametrize("role", ["trainer", ADMIN])
def test_a_key_for_some_pipelines_is_for_no_other(role: str) -> None:
    principal = Principal("a", frozenset({role}), frozenset({"flights", "phishing"}))
    principal.require(frozenset({role}), "phishing")
    principal.require(frozenset({role}), None)
    for other in ("flight", "flights2", "", "Flights"):
        assert not principal.reaches(other)
        with pytest.raises(NotAllowed, match="flights, phishing"):
            principal.require(frozenset({role}), other)
