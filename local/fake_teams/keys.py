"""The signing keys of Teams' tokens, and their publication (OpenID Connect Discovery, RFC 7517)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

#: The endorsements of a key of Teams ("Authentication with the Bot Connector API": a key's `endorsements` must
#: contain the activity's channel id).
TEAMS_ENDORSEMENTS = ("msteams",)
OTHER_ENDORSEMENTS = ("skype", "webchat")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key; `endorsements` None publishes the key without the field."""

    kid: str
    private: rsa.RSAPrivateKey
    endorsements: tuple[str, ...] | None

    def jwk(self) -> dict[str, Any]:
        public = self.private.public_key().public_numbers()
        key = {
            "kty": "RSA",
            "use": "sig",
            "kid": self.kid,
            "x5t": self.kid,
            "n": _base64url(public.n),
            "e": _base64url(public.e),
        }
        return key if self.endorsements is None else {**key, "endorsements": list(self.endorsements)}

    def public_pem(self) -> bytes:
        public = self.private.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class KeyRing:
    """The current key, the published keys, and the keys of forgeries, created on demand."""

    def __init__(self) -> None:
        self._named: dict[str, SigningKey] = {}
        self.published: list[SigningKey] = []
        self.retired: SigningKey | None = None

    async def create_first_key(self) -> None:
        self.current = await _create_key(TEAMS_ENDORSEMENTS)
        self.published = [self.current]

    async def rotate(self, *, keep_old: bool) -> SigningKey:
        """Sign with a new key from now on; the old key stays published if `keep_old`."""
        self.retired = self.current
        if not keep_old:
            self.published.remove(self.current)
        self.current = await _create_key(TEAMS_ENDORSEMENTS)
        self.published.append(self.current)
        return self.current

    async def add(self, endorsements: tuple[str, ...] | None) -> SigningKey:
        """Publish one more key; None omits the field."""
        key = await _create_key(endorsements)
        self.published.append(key)
        return key

    async def get_named(self, name: str) -> SigningKey:
        """Return the key with this name (see `api.Forgery`); create and publish it if needed."""
        if name == "current":
            return self.current
        if name == "retired":
            if self.retired is None:
                raise ValueError("no key is retired yet: rotate the keys first")
            return self.retired
        if name not in self._named:
            if name == "unendorsed":
                self._named[name] = await self.add(None)
            elif name == "otherChannel":
                self._named[name] = await self.add(OTHER_ENDORSEMENTS)
            else:
                self._named[name] = await _create_key(TEAMS_ENDORSEMENTS)
        if name == "impostor":
            return SigningKey(self.current.kid, self._named[name].private, TEAMS_ENDORSEMENTS)
        return self._named[name]

    def metadata(self, base: str, issuer: str) -> dict[str, Any]:
        """Return the OpenID metadata document."""
        return {
            "issuer": issuer,
            "authorization_endpoint": "https://invalid.botframework.com",
            "jwks_uri": f"{base}/v1/.well-known/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        }

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.jwk() for key in self.published]}


async def _create_key(endorsements: tuple[str, ...] | None) -> SigningKey:
    private = await asyncio.to_thread(rsa.generate_private_key, public_exponent=65537, key_size=2048)
    modulus = _base64url(private.public_key().public_numbers().n)
    kid = base64.urlsafe_b64encode(hashlib.sha256(modulus.encode()).digest()[:20]).decode().rstrip("=")
    return SigningKey(kid, private, endorsements)


def _base64url(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).decode().rstrip("=")
