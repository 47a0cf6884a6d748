"""Verify the token with which Teams signs its requests (Bot Connector authentication, Microsoft Learn)."""

from __future__ import annotations

import re

import jwt

from messages.auth.signing_keys import SigningKeys

#: Accepted difference between Teams' clock and ours.
CLOCK_SKEW_SECONDS = 300
#: Longest `Authorization` header that is read, in characters; those of Teams have about 1,500.
MAX_HEADER_CHARS = 8192

ALGORITHMS = ("RS256", "RS384", "RS512")
_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)", re.IGNORECASE)


class TokenRefused(Exception):
    """The token does not prove that Teams is the caller. The text says why, for the log only."""


class TokenVerifier:
    """Accepts tokens that `issuer` issued for the bot `app_id`."""

    def __init__(self, keys: SigningKeys, *, issuer: str, app_id: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._app_id = app_id

    async def verify(self, authorization: str) -> str:
        """Verify the token of an `Authorization` header, and return its serviceUrl, "" if it has none.

        Raises `TokenRefused`, or `KeysUnavailable` if the token cannot be verified now.
        """
        match = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_HEADER_CHARS else None
        if match is None:
            raise TokenRefused("no bearer token")
        token = match[1]
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError):
            raise TokenRefused("unreadable header") from None
        key_id = header.get("kid")
        if header.get("alg") not in ALGORITHMS or not isinstance(key_id, str):
            raise TokenRefused("not signed by RSA with a key id")
        key = await self._keys.find(key_id)
        if key is None:
            raise TokenRefused("unknown key")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._app_id,
                issuer=self._issuer,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "iss", "aud"], "strict_aud": True},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(type(error).__name__) from None
        return str(claims.get("serviceurl") or "")
