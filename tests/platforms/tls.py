"""Certificates for servers that tests start on loopback: an authority of the test's own and one server certificate."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certify(folder: Path, name: str = "127.0.0.1", days: int = 2) -> tuple[Path, Path]:
    """Make FOLDER/ca.pem and FOLDER/server.pem (certificate and key, for an IP address); gives both paths.

    `days`: for which the server's certificate holds from now on; it may have expired that long ago.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now, keys = datetime.now(UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]

    def certificate(subject: str, key: int, *, ca: bool) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
        own = x509.SubjectKeyIdentifier.from_public_key(keys[key].public_key())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
        builder = x509.CertificateBuilder().subject_name(named).issuer_name(issuer).public_key(keys[key].public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=30))
        builder = builder.not_valid_after(now + timedelta(days=2 if ca else days)).add_extension(usage, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca, 0 if ca else None), critical=True)
        builder = builder.add_extension(own, critical=False).add_extension(signer, critical=False)
        builder = builder if ca else builder.add_extension(address, critical=False)
        return builder.sign(keys[0], hashes.SHA256())

    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    authority, server = folder / "ca.pem", folder / "server.pem"
    authority.write_bytes(certificate("test authority", 0, ca=True).public_bytes(pem))
    secret = keys[1].private_bytes(pem, private, serialization.NoEncryption())
    server.write_bytes(certificate("test server", 1, ca=False).public_bytes(pem) + secret)
    return authority, server
