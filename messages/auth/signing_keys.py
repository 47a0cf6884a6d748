"""Read the public keys with which Teams signs its tokens, from its OpenID metadata.

Only keys that are endorsed for Teams are used ("Authentication with the Bot Connector API", Microsoft Learn: the
`endorsements` of a key must include the activity's channel id).
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

from messages.activity.schema import TEAMS_CHANNEL_ID
from shared.limited_read import read_limited

#: Age at which the keys are read again.
KEY_LIFETIME = timedelta(hours=24)
#: Pause after a read that failed, or did not return the requested key: invented key ids must not cause more requests.
READ_RETRY_DELAY = timedelta(seconds=10)
#: The same pause while there are no keys at all, and every activity waits for them.
FIRST_READ_RETRY_DELAY = timedelta(seconds=1)
#: For each of the two documents.
DOCUMENT_TIMEOUT = aiohttp.ClientTimeout(total=10)
#: Largest document; those of Teams have less than 20 KB.
MAX_DOCUMENT_BYTES = 1024 * 1024

log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """No keys have been read yet, so that no token can be verified."""


class SigningKeys:
    """The keys behind the OpenID metadata at `url`, read when first needed; `clock` returns the time in UTC."""

    def __init__(self, url: str, session: aiohttp.ClientSession, clock: Callable[[], datetime]) -> None:
        self._url = url
        self._session = session
        self._clock = clock
        self._keys: dict[str, RSAPublicKey] | None = None
        self._read_at = self._failed_at = datetime.min.replace(tzinfo=UTC)
        self._reading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> RSAPublicKey | None:
        """Return the key with this id, or None if no trusted key has it; raises `KeysUnavailable`."""
        known = self._keys.get(key_id) if self._keys else None
        if known:
            if self._must_read(key_id) and not self._reading.locked():
                self._refreshing = asyncio.create_task(self._refresh(key_id))  # nobody waits for it
            return known
        if self._must_read(key_id):
            await self._refresh(key_id)
        if self._keys is None:
            raise KeysUnavailable
        return self._keys.get(key_id)

    async def _refresh(self, key_id: str) -> None:
        async with self._reading:
            if self._must_read(key_id):
                await self._read(key_id)

    def _must_read(self, key_id: str) -> bool:
        now = self._clock()
        if self._keys is None:
            return now - self._failed_at >= FIRST_READ_RETRY_DELAY
        is_outdated = now - self._read_at >= KEY_LIFETIME
        return (is_outdated or key_id not in self._keys) and now - self._failed_at >= READ_RETRY_DELAY

    async def _read(self, key_id: str) -> None:
        try:
            keys = await self._fetch_keys()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.error("The signing keys of Teams could not be read from %s: %r", self._url, error)
            self._failed_at = self._clock()
            return
        self._keys, self._read_at = keys, self._clock()
        if key_id not in keys:
            self._failed_at = self._read_at

    async def _fetch_keys(self) -> dict[str, RSAPublicKey]:
        match await self._fetch_document(self._url):
            case {"jwks_uri": str(keys_url)}:
                pass
            case _:
                raise ValueError("the OpenID metadata has no jwks_uri")
        match await self._fetch_document(keys_url):
            case {"keys": list(published)}:
                return select_trusted_keys(published)
            case _:
                raise ValueError("the key document has no keys")

    async def _fetch_document(self, url: str) -> Any:
        async with self._session.get(url, timeout=DOCUMENT_TIMEOUT, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"{url} answered {response.status}")
            body = await read_limited(response, MAX_DOCUMENT_BYTES)
            if body is None:
                raise ValueError(f"the document at {url} has more than {MAX_DOCUMENT_BYTES} bytes")
            return orjson.loads(body)


def select_trusted_keys(published: Iterable[Any]) -> dict[str, RSAPublicKey]:
    """Return the RSA keys of a JSON Web Key Set (RFC 7517) that are endorsed for Teams, by id."""
    keys = {}
    for jwk in published:
        match jwk:
            case {"kty": "RSA", "kid": str(kid), "endorsements": list(endorsements)} if (
                TEAMS_CHANNEL_ID in endorsements
            ):
                try:
                    key = jwt.PyJWK(jwk, "RS256").key
                except (jwt.PyJWTError, ValueError):
                    log.warning("A signing key of Teams cannot be read and is not used: %.100s", kid)
                    continue
                if isinstance(key, RSAPublicKey):
                    keys[kid] = key
    return keys
