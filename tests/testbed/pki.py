"""Certificates, keys and kubeconfigs of a test cluster: an authority made new for each, trusted by no one else."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN_GROUP = "system:masters"
_LIFE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _subject(name: str, groups: Sequence[str] = ()) -> x509.Name:
    """A user as the API server reads it from a certificate: CN is the name, each O a group."""
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Authority:
    """The cluster's certificate authority; everything it makes lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("toolorchestra-testbed")
        certificate = (
            self._draft(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(self.key, self._key)

    def _draft(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + _LIFE)
        )

    def issue(self, file: str, *, name: str, groups: Sequence[str] = (), hosts: Iterable[str] = ()) -> Pair:
        """A certificate for the user `name` in `groups`; with `hosts`, one that serves under those names too."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [_alternative(host) for host in hosts]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if alternatives else [])]
        draft = self._draft(_subject(name, groups), key.public_key()).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        if alternatives:
            draft = draft.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        signed = draft.sign(self._key, hashes.SHA256())
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        _write_key(pair.key, key)
        return pair

    def signing_keys(self, file: str) -> Pair:
        """A bare key pair that signs service account tokens; `certificate` is the public key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pair = Pair(self.folder / f"{file}.pub", self.folder / f"{file}.key")
        pair.certificate.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        _write_key(pair.key, key)
        return pair

    def kubeconfig(self, path: Path, *, server: str, name: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig, whole in itself, with which its holder is `name`."""
        pair = self.issue(path.stem, name=name, groups=groups)
        user = {
            "client-certificate-data": _encoded(pair.certificate),
            "client-key-data": _encoded(pair.key),
        }
        cluster = {"server": server, "certificate-authority-data": _encoded(self.certificate)}
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "testbed", "cluster": cluster}],
                    "users": [{"name": name, "user": user}],
                    "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": name}}],
                    "current-context": "testbed",
                },
                sort_keys=False,
            )
        )
        return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
