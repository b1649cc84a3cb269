from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from sqlalchemy import Connection, create_engine

from ringfence_audit.blobs import BlobDamaged, Blobs, DatabaseBlobs, FileBlobs
from ringfence_audit.keys import KeyUnusable, Signer
from ringfence_audit.schema import metadata


def test_a_missing_key_is_not_made_up_on_load(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="cannot read"):
        Signer.load(tmp_path / "key", "x")


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    Signer.load_or_create(tmp_path / "key", "x")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        Signer.load_or_create(tmp_path / "key", "x")


@pytest.mark.parametrize("body", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "key").write_bytes(body)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(KeyUnusable, match="not a PEM"):
        Signer.load(tmp_path / "key", "x")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key").write_bytes(pem)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(KeyUnusable, match="not Ed25519"):
        Signer.load(tmp_path / "key", "x")


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = Signer.load_or_create(tmp_path / "key", "x")
    assert Signer.load_or_create(tmp_path / "key", "x").public_key == first.public_key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.fixture(params=["files", "database"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return FileBlobs(tmp_path / "blobs") if request.param == "files" else DatabaseBlobs()


@pytest.fixture
def connection(tmp_path: Path) -> Connection:
    engine = create_engine(f"sqlite:///{tmp_path}/x.db")
    metadata.create_all(engine)
    return engine.connect()


def test_a_body_that_was_never_kept_is_none(kept: Blobs, connection: Connection) -> None:
    assert kept.get("0" * 64, connection) is None
    kept.drop("0" * 64, connection)


def test_a_digest_that_would_leave_the_folder_is_refused(tmp_path: Path, connection: Connection) -> None:
    with pytest.raises(BlobDamaged):
        FileBlobs(tmp_path).get("../../etc/passwd", connection)


def test_a_changed_body_is_not_given_out(tmp_path: Path, connection: Connection) -> None:
    files = FileBlobs(tmp_path)
    digest = sha256(b"body").hexdigest()
    files.put({digest: b"body"}, connection)
    (tmp_path / digest[:2] / digest).write_bytes(b"Body")
    with pytest.raises(BlobDamaged, match="backup"):
        files.get(digest, connection)


def test_bodies_are_kept_once_and_given_back_until_dropped(kept: Blobs, connection: Connection) -> None:
    bodies = {sha256(bytes([n])).hexdigest(): bytes([n]) for n in range(9)}
    kept.put(bodies, connection)
    kept.put(bodies, connection)
    assert {digest: kept.get(digest, connection) for digest in bodies} == bodies
    first = next(iter(bodies))
    kept.drop(first, connection)
    assert kept.get(first, connection) is None
