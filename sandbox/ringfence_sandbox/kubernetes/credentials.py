"""The credential of one sandbox, derived rather than stored.

From the control plane's key and a namespace's name every worker derives the same certificate authority, used for that
sandbox alone. So nothing that opens a sandbox is kept in the cluster, a stolen orchestrator token does not hold it, and
any worker can connect to any sandbox without having started it. The client's certificate is made for one connection
and lives ten minutes. The server's key does lie in its pod, beside what the agent runs: it proves nothing but that an
answer comes from that pod, and whoever reads it stands on no path to use it.

Keys: Ed25519 from HKDF-SHA256 (RFC 5869), `info` naming the purpose and the namespace. Certificates: X.509 (RFC 5280).
"""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ringfence_sandbox.errors import IsolationUnavailable

KEY_BYTES: Final = 32
_SKEW: Final = timedelta(minutes=10)
_SERVER_LIFE: Final = timedelta(days=90)
_CLIENT_LIFE: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """PEM texts of the Secret that is mounted in the pod. None of them lets anyone in."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes


@dataclass(frozen=True, slots=True)
class ControlKey:
    """The control plane's one secret: 32 random bytes, shared by all its workers, never inside a sandbox."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise IsolationUnavailable(
                f"the control plane's sandbox key has {len(self.secret)} bytes instead of {KEY_BYTES}",
                fix="make a new one from 32 random bytes; sandboxes made with the old one cannot be reached any more",
            )

    @classmethod
    def at(cls, path: Path) -> ControlKey:
        """The key kept in a file, made on first use, readable by its owner only. Raises `IsolationUnavailable`."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            except FileExistsError:
                return cls(path.read_bytes())
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            return cls(path.read_bytes())
        except OSError as error:
            raise IsolationUnavailable(
                f"the control plane's sandbox key cannot be kept at {path}: {error.strerror}",
                fix="name a path that this user can write",
            ) from error

    @property
    def fingerprint(self) -> str:
        """Ten hex digits that tell one installation's key from another's, and nothing about it."""
        return HKDF(hashes.SHA256(), length=5, salt=None, info=b"ringfence/fingerprint").derive(self.secret).hex()

    def _derive(self, purpose: str, namespace: str) -> Ed25519PrivateKey:
        seed = HKDF(hashes.SHA256(), length=32, salt=None, info=f"ringfence/{purpose}/{namespace}".encode())
        return Ed25519PrivateKey.from_private_bytes(seed.derive(self.secret))

    def _authority(self, namespace: str) -> tuple[Ed25519PrivateKey, x509.Name]:
        return self._derive("authority", namespace), _name(f"ringfence {namespace}")

    def server_files(self, namespace: str, *, now: datetime) -> ServerFiles:
        """What the in-sandbox server of this namespace starts with."""
        authority, issuer = self._authority(namespace)
        key = self._derive("server", namespace)
        certificate = (
            _builder(server_name(namespace), issuer, key, now=now, life=_SERVER_LIFE)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(namespace))]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .sign(authority, None)
        )
        return ServerFiles(_pem(certificate), _key_pem(key), self._ca(namespace, now=now))

    def _ca(self, namespace: str, *, now: datetime) -> bytes:
        authority, name = self._authority(namespace)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            _builder(f"ringfence {namespace}", name, authority, now=now, life=_SERVER_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(authority, None)
        )
        return _pem(certificate)

    def client_context(self, namespace: str, *, now: datetime) -> ssl.SSLContext:
        """A TLS 1.3 client that trusts this sandbox's authority alone and proves itself with a fresh certificate.

        Use it with `server_name(namespace)` as host name.
        """
        authority, issuer = self._authority(namespace)
        key = Ed25519PrivateKey.generate()
        certificate = (
            _builder("ringfence control plane", issuer, key, now=now, life=_CLIENT_LIFE)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .sign(authority, None)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._ca(namespace, now=now).decode())
        # ssl reads a certificate chain from a file only; it lives for the two lines between.
        with tempfile.NamedTemporaryFile(prefix="ringfence-client-") as file:
            file.write(_key_pem(key) + _pem(certificate))
            file.flush()
            context.load_cert_chain(file.name)
        return context


def server_name(namespace: str) -> str:
    """The name in the server's certificate. Resolves nowhere (RFC 6761)."""
    return f"{namespace}.sandbox.invalid"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: str, issuer: x509.Name, key: Ed25519PrivateKey, *, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
