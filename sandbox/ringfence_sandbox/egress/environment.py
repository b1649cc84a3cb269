"""What makes pip, npm, git, curl, apt, wget, Python, Node, Go, Rust and Java inside a sandbox use the proxy unchanged.

Pure but for `system_roots`. The variables and the files beside `ca_path` belong together: put both in, read-only.
"""

from __future__ import annotations

import re
import ssl
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.utils import CryptographyDeprecationWarning

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_INSIDE = "localhost,127.0.0.1,::1"
_JAVA_STORE_PASSWORD = "changeit"  # noqa: S105 a trust store holds certificates only; Java wants a word all the same


def environment(proxy_url: str, ca_path: PurePosixPath) -> Mapping[str, str]:
    """The variables, for a proxy at `http://[user:password@]host:port` and a PEM bundle at `ca_path` inside.

    The bundle holds every root to trust, the run's authority included: several of these tools trust it alone.
    """
    ca = str(ca_path)
    return {
        **proxy_environment(proxy_url),
        "SSL_CERT_FILE": ca,
        "CURL_CA_BUNDLE": ca,
        "REQUESTS_CA_BUNDLE": ca,
        "PIP_CERT": ca,
        "GIT_SSL_CAINFO": ca,
        "NODE_EXTRA_CA_CERTS": ca,
        "npm_config_cafile": ca,
        "YARN_HTTPS_CA_FILE_PATH": ca,
        "DENO_CERT": ca,
        "CARGO_HTTP_CAINFO": ca,
        "AWS_CA_BUNDLE": ca,
        "NIX_SSL_CERT_FILE": ca,
        "BUNDLE_SSL_CA_CERT": ca,
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": ca,
        "APT_CONFIG": str(ca_path.with_name("apt.conf")),
        "WGETRC": str(ca_path.with_name("wgetrc")),
        "JAVA_TOOL_OPTIONS": _java_options(proxy_url, ca_path),
    }


def proxy_environment(proxy_url: str) -> Mapping[str, str]:
    """Only what makes tools find the proxy: they trust what their image trusts. Java takes no credential from here."""
    proxy = {name: proxy_url for upper in ("HTTP_PROXY", "HTTPS_PROXY") for name in (upper, upper.lower())}
    return {
        **proxy,
        "NO_PROXY": _INSIDE,
        "no_proxy": _INSIDE,
        "GIT_TERMINAL_PROMPT": "0",
        "NODE_USE_ENV_PROXY": "1",
        "npm_config_proxy": proxy_url,
        "npm_config_https_proxy": proxy_url,
        "npm_config_noproxy": _INSIDE,
        "YARN_HTTP_PROXY": proxy_url,
        "YARN_HTTPS_PROXY": proxy_url,
        "CARGO_HTTP_PROXY": proxy_url,
    }


def files(proxy_url: str, ca_path: PurePosixPath, certificates: Sequence[bytes]) -> Mapping[PurePosixPath, bytes]:
    """The files that the variables point to, by path inside. `certificates` are PEM texts, each with one or more.

    Raises `ValueError` where one of them holds no certificate.
    """
    bundle = b"".join(text.rstrip() + b"\n" for text in certificates)
    return {
        ca_path: bundle,
        _java_store(ca_path): _trust_store(bundle),
        ca_path.with_name("apt.conf"): _apt_conf(proxy_url, ca_path),
        ca_path.with_name("wgetrc"): f"ca_certificate = {ca_path}\n".encode(),
    }


def system_roots() -> bytes:
    """The roots that this machine trusts, as PEM; empty where it has none."""
    path = ssl.get_default_verify_paths().cafile
    return Path(path).read_bytes() if path else b""


def _java_store(ca_path: PurePosixPath) -> PurePosixPath:
    return ca_path.with_name("java-trust.p12")


def _trust_store(bundle: bytes) -> bytes:
    certificates = _sound(bundle)
    if not certificates:
        raise ValueError("no certificate is there to be trusted")
    named = [
        pkcs12.PKCS12Certificate(certificate, f"root-{index}".encode())
        for index, certificate in enumerate(certificates)
    ]
    lock = serialization.BestAvailableEncryption(_JAVA_STORE_PASSWORD.encode())
    return pkcs12.serialize_java_truststore(named, lock)


def _sound(bundle: bytes) -> Sequence[x509.Certificate]:
    """The certificates that RFC 5280 allows. Distributions still carry one whose serial number is negative."""
    found = []
    for block in _BLOCK.findall(bundle):
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            try:
                found.append(x509.load_pem_x509_certificate(block))
            except CryptographyDeprecationWarning:
                continue
    return found


def _java_options(proxy_url: str, ca_path: PurePosixPath) -> str:
    """System properties; Java takes no credential for a proxy from here, so there the proxy must need none."""
    url = urlsplit(proxy_url)
    options = [f"-D{scheme}.proxy{key}={value}" for scheme in ("http", "https")
               for key, value in (("Host", url.hostname), ("Port", url.port))]  # fmt: skip
    options += [
        "-Dhttp.nonProxyHosts=localhost|127.*|[::1]",
        f"-Djavax.net.ssl.trustStore={_java_store(ca_path)}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_JAVA_STORE_PASSWORD}",
    ]
    return " ".join(options)


def _apt_conf(proxy_url: str, ca_path: PurePosixPath) -> bytes:
    return (
        f'Acquire::http::Proxy "{proxy_url}";\n'
        f'Acquire::https::Proxy "{proxy_url}";\n'
        f'Acquire::https::CAInfo "{ca_path}";\n'
    ).encode()
