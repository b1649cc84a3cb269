"""The derived credential: who gets in, and who does not. TLS runs in memory here, without a socket."""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes.credentials import ControlKey, server_name

KEY = ControlKey(b"k" * 32)
OTHER = ControlKey(b"o" * 32)


def server_context(key: ControlKey, namespace: str, now: datetime) -> ssl.SSLContext:
    files = key.server_files(namespace, now=now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=files.client_ca.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(files.key + files.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """A whole handshake and one byte each way. Raises `ssl.SSLError` where either side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    done = [False, False]
    for _ in range(10):
        for index, side in enumerate((ours, theirs)):
            if not done[index]:
                try:
                    side.do_handshake()
                    done[index] = True
                except ssl.SSLWantReadError:
                    continue
    assert all(done)
    ours.write(b"x")
    assert theirs.read(1) == b"x"
    theirs.write(b"y")
    assert ours.read(1) == b"y"


def test_another_control_plane_is_refused() -> None:
    now = datetime.now(UTC)
    with pytest.raises(ssl.SSLError):
        shake(OTHER.client_context("rf-a", now=now), server_context(KEY, "rf-a", now), server_name("rf-a"))


def test_credential_of_one_sandbox_does_not_open_another() -> None:
    now = datetime.now(UTC)
    with pytest.raises(ssl.SSLError):
        shake(KEY.client_context("rf-a", now=now), server_context(KEY, "rf-b", now), server_name("rf-a"))


def test_client_without_a_certificate_is_refused() -> None:
    now = datetime.now(UTC)
    client = ssl.create_default_context(cadata=KEY.server_files("rf-a", now=now).client_ca.decode())
    with pytest.raises((ssl.SSLError, AssertionError)):
        shake(client, server_context(KEY, "rf-a", now), server_name("rf-a"))


def test_servers_own_key_does_not_let_anyone_in() -> None:
    now = datetime.now(UTC)
    stolen = KEY.server_files("rf-a", now=now)
    client = ssl.create_default_context(cadata=stolen.client_ca.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(stolen.key + stolen.certificate)
        file.flush()
        client.load_cert_chain(file.name)
    with pytest.raises(ssl.SSLError):
        shake(client, server_context(KEY, "rf-a", now), server_name("rf-a"))


def test_client_certificate_of_an_hour_ago_is_refused() -> None:
    now = datetime.now(UTC)
    with pytest.raises(ssl.SSLError):
        old = KEY.client_context("rf-a", now=now - timedelta(hours=1))
        shake(old, server_context(KEY, "rf-a", now), server_name("rf-a"))


def test_every_worker_with_the_key_gets_in() -> None:
    now = datetime.now(UTC)
    shake(ControlKey(b"k" * 32).client_context("rf-a", now=now), server_context(KEY, "rf-a", now), server_name("rf-a"))


def test_a_short_key_is_refused() -> None:
    with pytest.raises(IsolationUnavailable):
        ControlKey(b"short")


def test_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sandbox.key"
    assert ControlKey.at(path) == ControlKey.at(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_key_never_shows_in_a_repr() -> None:
    assert "kkkk" not in repr(KEY)
    assert "PRIVATE" not in repr(KEY.server_files("rf-a", now=datetime.now(UTC)))
