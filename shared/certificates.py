"""Read the certificate by which an app registration knows the bot, importing `cryptography` only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate


def read_certificate(pem: str) -> tuple[RSAPrivateKey, Certificate]:
    """Return the private key in PEM text and, of the certificates in it, the key's own, wherever it stands.

    Raise `ValueError`, without a word of the text, if one of them is missing or cannot be used. Entra ID accepts RSA
    keys only ("Microsoft identity platform application authentication certificate credentials", Microsoft Learn).
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if pem.startswith("@Microsoft.KeyVault("):
        raise ValueError("is a Key Vault reference that Azure could not resolve: check it, and the role on the vault")
    try:
        key = load_pem_private_key(pem.encode(), None)
        certificates = x509.load_pem_x509_certificates(pem.encode())
        own = [each for each in certificates if each.public_key() == key.public_key()]
    # A key with a passphrase is a TypeError.
    except (ValueError, TypeError, UnsupportedAlgorithm):
        own = []
    if not own or not isinstance(key, RSAPrivateKey):
        raise ValueError("cannot be read: set it to an RSA private key without passphrase and its certificate, as PEM")
    return key, own[0]
