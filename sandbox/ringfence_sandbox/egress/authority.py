"""A certificate authority made for one run, so that the proxy can add credentials where a profile says so.

Its key lives in memory and nowhere else; only the certificate enters the sandbox. It signs for one host at a time, when
the proxy needs it.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATE = timedelta(hours=1)
_KEPT = 512


class RunAuthority:
    """The run's CA. Make one with `create`; it holds for `days` from then on."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: dict[str, ssl.SSLContext] = {}

    @classmethod
    def create(
        cls, run: str, *, key: ec.EllipticCurvePrivateKey | None = None, now: datetime | None = None, days: int = 30
    ) -> RunAuthority:
        """A certificate, named after the run for whoever reads it, and a fresh key where none is given.

        Two of one name and key vouch for each other's hosts, whenever and wherever they were made.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Ringfence run {run}"[:64])])
        start = (now or datetime.now(UTC)) - _BACKDATE
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    @property
    def certificate_pem(self) -> bytes:
        """What the sandbox is given to trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def private_pem(self) -> bytes:
        """Key and certificate, for `load` in another process that serves the same run. A secret: never inside."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key + self.certificate_pem

    @classmethod
    def load(cls, private_pem: bytes) -> RunAuthority:
        """The authority that `private_pem` gave. Raises `ValueError` where it is none."""
        key = serialization.load_pem_private_key(private_pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key of a run's authority is an elliptic-curve key")
        return cls(key, x509.load_pem_x509_certificate(private_pem))

    def server_context(self, host: str) -> ssl.SSLContext:
        """A server-side TLS context that speaks HTTP/1.1 for this canonical host. Kept for the next connection."""
        context = self._contexts.get(host)
        if context is None:
            if len(self._contexts) >= _KEPT:
                self._contexts.clear()
            context = self._contexts[host] = self._build(host)
        return context

    def _build(self, host: str) -> ssl.SSLContext:
        leaf = self._leaf(host).public_bytes(serialization.Encoding.PEM)
        key = self._leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # The ssl module loads keys from files only; a memory file keeps this one off every disk.
        with os.fdopen(os.memfd_create("leaf", os.MFD_CLOEXEC), "wb", buffering=0) as file:
            file.write(key + leaf)
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context

    def _leaf(self, host: str) -> x509.Certificate:
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        authority_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._certificate.not_valid_before_utc)
            .not_valid_after(self._certificate.not_valid_after_utc)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(authority_identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
