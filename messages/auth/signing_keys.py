"""The public keys with which Teams signs its tokens, as published in its OpenID metadata.

Only keys that are endorsed for Teams are kept ("Authentication with the Bot Connector API", Microsoft Learn: the
`endorsements` of a key must hold the activity's channel id).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

#: How long keys are used before they are read again.
LIFETIME = timedelta(hours=24)
#: The pause after a read that failed or did not bring the wanted key: callers who make up key ids cannot make us
#: ask more often.
RETRY_DELAY = timedelta(seconds=10)
#: The same, while there are no keys at all and every activity has to wait for them.
FIRST_PAUSE = timedelta(seconds=1)
#: Each of the two documents must have come within this time.
TIMEOUT = aiohttp.ClientTimeout(total=10)

CHANNEL = "msteams"

logger = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """No keys could be read yet, so that nobody's token can be judged."""


class SigningKeys:
    """The keys behind the OpenID metadata at `url`, read when first needed; `clock` gives the time in UTC."""

    def __init__(self, url: str, session: aiohttp.ClientSession, clock: Callable[[], datetime]) -> None:
        self._url = url
        self._session = session
        self._clock = clock
        self._keys: dict[str, RSAPublicKey] | None = None
        self._read_at = self._missed_at = datetime.min.replace(tzinfo=UTC)
        self._reading = asyncio.Lock()

    async def find(self, kid: str) -> RSAPublicKey | None:
        """The key of this id, or None where no trusted key has it; raises `KeysUnavailable`."""
        if self._must_read(kid):
            async with self._reading:
                if self._must_read(kid):
                    await self._read(kid)
        if self._keys is None:
            raise KeysUnavailable
        return self._keys.get(kid)

    def _must_read(self, kid: str) -> bool:
        now = self._clock()
        if self._keys is None:
            return now - self._missed_at >= FIRST_PAUSE
        outdated = now - self._read_at >= LIFETIME
        return (outdated or kid not in self._keys) and now - self._missed_at >= RETRY_DELAY

    async def _read(self, wanted: str) -> None:
        try:
            keys = await self._published()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            logger.error("The signing keys of Teams could not be read from %s: %r", self._url, error)
            self._missed_at = self._clock()
            return
        self._keys, self._read_at = keys, self._clock()
        if wanted not in keys:
            self._missed_at = self._read_at

    async def _published(self) -> dict[str, RSAPublicKey]:
        match await self._document(self._url):
            case {"jwks_uri": str(keys_url)}:
                pass
            case _:
                raise ValueError("the OpenID metadata names no jwks_uri")
        match await self._document(keys_url):
            case {"keys": list(published)}:
                return trusted(published)
            case _:
                raise ValueError("the key document has no keys")

    async def _document(self, url: str) -> Any:
        async with self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"{url} answered {response.status}")
            return orjson.loads(await response.read())


def trusted(published: Iterable[Any]) -> dict[str, RSAPublicKey]:
    """The RSA keys endorsed for Teams, by id, of a JSON Web Key Set (RFC 7517); others are left out."""
    keys = {}
    for jwk in published:
        match jwk:
            case {"kty": "RSA", "kid": str(kid), "endorsements": list(endorsements)} if CHANNEL in endorsements:
                try:
                    key = jwt.PyJWK(jwk, "RS256").key
                except (jwt.PyJWTError, ValueError):
                    logger.warning("A signing key of Teams is unreadable and left out: %.100s", kid)
                    continue
                if isinstance(key, RSAPublicKey):
                    keys[kid] = key
    return keys
