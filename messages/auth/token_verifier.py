"""Verify the token with which Teams signs its requests (Bot Connector authentication, Microsoft Learn)."""

from __future__ import annotations

import re

import jwt

from messages.auth.signing_keys import SigningKeys

#: Seconds by which Teams' clock and ours may differ.
LEEWAY_SECONDS = 300
#: Longest `Authorization` header that is looked at, in characters; those of Teams have some 1,500.
MAX_HEADER_CHARS = 8192

ALGORITHMS = ("RS256", "RS384", "RS512")
_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)", re.IGNORECASE)


class TokenRefused(Exception):
    """The token does not show that Teams is the caller; the text says why, for the log alone."""


class Verifier:
    """Verifies tokens issued by `issuer` for the bot `app_id`."""

    def __init__(self, keys: SigningKeys, *, issuer: str, app_id: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._app_id = app_id

    async def service_url(self, authorization: str) -> str:
        """The serviceUrl for which this `Authorization` header was issued, "" where its token names none.

        Raises `TokenRefused`, and `KeysUnavailable` where the token cannot be judged.
        """
        found = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_HEADER_CHARS else None
        if found is None:
            raise TokenRefused("no bearer token")
        token = found[1]
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError):
            raise TokenRefused("unreadable header") from None
        kid = header.get("kid")
        if header.get("alg") not in ALGORITHMS or not isinstance(kid, str):
            raise TokenRefused("not signed by RSA with a key id")
        key = await self._keys.find(kid)
        if key is None:
            raise TokenRefused("unknown key")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._app_id,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"], "strict_aud": True},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(type(error).__name__) from None
        return str(claims.get("serviceurl") or "")
