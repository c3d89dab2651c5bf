"""Makes what the machines of a trial on 127.0.0.1 know each other by: ``python make_keys.py`` fills the folder keys.

``ca.crt`` signs ``server.pem``, the certificate of the SuperLink with its key ``server.key``; ``silo-0`` and ``silo-1``
are the private keys of the two SuperNodes, ``silo-0.pub`` and ``silo-1.pub`` what the SuperLink knows them by. In a
real federation the certificate comes from your certificate authority, and each silo makes its own key and sends the
public half.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

FOLDER = Path("keys")
DAYS = 30


def write_private(name: str, key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> None:
    """Write a private key that only its owner can read."""
    path = FOLDER / name
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """A certificate for 127.0.0.1; one that signs itself is that of an authority."""
    now = datetime.now(UTC)
    authority = key is signer
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=authority,
                crl_sign=authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )


def main() -> None:
    """Make all of them."""
    FOLDER.mkdir(exist_ok=True)
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    made = {
        "ca.crt": certificate("trial authority", authority, "trial authority", authority),
        "server.pem": certificate("localhost", server, "trial authority", authority),
    }
    for name, cert in made.items():
        (FOLDER / name).write_bytes(cert.public_bytes(Encoding.PEM))
    write_private("server.key", server, PrivateFormat.PKCS8)
    for silo in ("silo-0", "silo-1"):
        key = ec.generate_private_key(ec.SECP384R1())
        write_private(silo, key, PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (FOLDER / f"{silo}.pub").write_bytes(public + b"\n")


if __name__ == "__main__":
    main()
