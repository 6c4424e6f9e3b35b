"""PKI: the certificates by which sites know each other, and the TLS contexts made of them.

    DIR/ca.pem, ca.key          the authority of one installation; its key stays where it was made
    DIR/SITE/ca.pem             what a site needs, to be copied to it: whom to believe
    DIR/SITE/site.pem, site.key and who it is

A site is named in its certificate as the URI `drsim:SITE` and, for who asks its API, as a host of that name. Both sides
of a connection show theirs (mutual TLS 1.3), and each is taken only as the site that it was expected to be. Keys are
P-256, readable by their owner only.
"""

import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drsim.core.errors import FileError, PeerError
from drsim.real.files import blame

DAYS_CA, DAYS_SITE = 3650, 397
"""Lifetimes in days: of an authority ten years; of a site's what browsers take at most."""
SKEW = timedelta(minutes=5)
"""A certificate is valid this much earlier, for clocks that are behind."""


def init(directory: Path, sites: list[str]) -> None:
    """Make an authority, if there is none yet, and a folder for each site. Raises FileError for one that is there."""
    for site in sites:
        if not site or not site.replace("-", "").replace(".", "").isalnum() or site.startswith("."):
            raise FileError(f"{site!r} is no name for a site", hint="letters, digits, - and .")
        if (directory / site).exists():
            raise FileError("the site has its files already", place=str(directory / site), hint="delete them first")
    with blame(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, authority = _authority(directory)
        for site in sites:
            _site(directory / site, site, key, authority)


def _authority(directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, path = directory / "ca.key", directory / "ca.pem"
    if path.exists() or key_path.exists():
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            authority = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            hint = "begin with an empty folder, or bring both files"
            raise FileError(f"the authority cannot be read: {error}", place=str(directory), hint=hint) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, authority
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "drsim authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    authority = (
        _begun(name, name, key.public_key(), DAYS_CA)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _private(key), 0o600)
    _write(path, authority.public_bytes(serialization.Encoding.PEM), 0o644)
    return key, authority


def _site(
    folder: Path, site: str, signer: ec.EllipticCurvePrivateKey, authority: x509.Certificate, *, days: int = DAYS_SITE
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    names = [x509.UniformResourceIdentifier(_uri(site)), x509.DNSName(site)]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _begun(name, authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(signer_id, critical=False)
        .sign(signer, hashes.SHA256())
    )
    folder.mkdir(mode=0o700)
    _write(folder / "site.key", _private(key), 0o600)
    _write(folder / "site.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM), 0o644)


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _uri(site: str) -> str:
    return f"drsim:{site}"


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the listening and for the connecting side, of a site's folder. Raises FileError."""
    made = [ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)]
    for context in made:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name of a site is in the URI; see `check_peer`
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(folder / "ca.pem")
            context.load_cert_chain(folder / "site.pem", folder / "site.key")
        except (OSError, ssl.SSLError) as error:
            hint = "`drsim pki init` makes ca.pem, site.pem and site.key"
            raise FileError(f"the site's certificate cannot be read: {error}", place=str(folder), hint=hint) from error
    return made[0], made[1]


def tell(context: ssl.SSLContext, refused: Callable[[str], None]) -> None:
    """Tell why a handshake fails: asyncio keeps that to itself."""

    class Telling(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLError as error:
                if not isinstance(error, ssl.SSLWantReadError):
                    refused(f"TLS: {error.reason or error}")
                raise

    context.sslobject_class = Telling


def api_context(folder: Path) -> ssl.SSLContext:
    """For a site's API: whoever asks sees who it is, and shows no certificate. Raises FileError."""
    context = contexts(folder)[0]
    context.verify_mode = ssl.CERT_NONE
    return context


def check_peer(certificate: Any, site: str, *, place: str) -> None:
    """That a peer's certificate (as `ssl` gives it, verified) is this site's. Raises PeerError."""
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]
    if _uri(site) not in names:
        shown = ", ".join(names) or "nobody"
        hint = "each site has a certificate of its own"
        raise PeerError(f"the certificate is of {shown}, not of {_uri(site)}", place=place, hint=hint)
