"""Certification authorities of the harness: certificates good and bad, with keys on the curve P-256, which is quick.

An authority has a root, which clients and servers trust, and an intermediate, which issues; so a chain has two
certificates, and whoever sends the first one alone is not believed.
Source: RFC 5280, 4.1 and 4.2.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness import waiting

DAY = 86_400  # seconds
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Credential:
    """A certificate with its chain (PEM, the leaf first, without the root) and its private key (PEM, PKCS #8)."""

    certificate: x509.Certificate
    chain: str
    key: str

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def common_name(self) -> str:
        return common_name(self.certificate)


def common_name(certificate: x509.Certificate | bytes) -> str:
    """Of whom it is (CN); bytes are DER."""
    if isinstance(certificate, bytes):
        certificate = x509.load_der_x509_certificate(certificate)
    return certificate.subject.rfc4514_string().removeprefix("CN=")


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none).decode()


class Issuer:
    """A certificate that signs others."""

    def __init__(self, name: str, above: Issuer | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        extensions = [(x509.BasicConstraints(ca=True, path_length=None), True), (usage, True)]
        self.certificate = (above or self).sign(self.name, self.key, extensions, (-DAY, 3650 * DAY))

    def sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        valid: tuple[float, float],
    ) -> x509.Certificate:
        """`valid` from and until, in seconds from now; each extension with whether it is critical."""
        now = datetime.datetime.fromtimestamp(waiting.unix_time(), datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(seconds=valid[0]))
            .not_valid_after(now + datetime.timedelta(seconds=valid[1]))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())


class Authority:
    """A root, and an intermediate that issues in its name."""

    def __init__(self, name: str) -> None:
        self._root = Issuer(f"{name} root")
        self._issuing = Issuer(f"{name} issuing", self._root)

    @property
    def root(self) -> str:
        """The root's certificate (PEM): what is to be trusted."""
        return pem(self._root.certificate)

    def issue(
        self,
        common_name: str,
        names: Sequence[str] = (),
        usage: x509.ObjectIdentifier = SERVER,
        valid: tuple[float, float] = (-DAY, 30 * DAY),
    ) -> Credential:
        """A certificate for DNS names, or for a client's common name; `valid` in seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
            (x509.ExtendedKeyUsage([usage]), False),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False))
        certificate = self._issuing.sign(_name(common_name), key, extensions, valid)
        return Credential(certificate, pem(certificate) + pem(self._issuing.certificate), _key_pem(key))
