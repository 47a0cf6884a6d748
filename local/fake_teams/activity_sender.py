"""Sign activities as Teams does, and post them to the app."""

from __future__ import annotations

import hmac
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
from jwt.utils import base64url_encode

from local.fake_teams.api import AppResponse, Forgery
from local.fake_teams.keys import KeyRing, SigningKey

#: The issuer in the tokens of Teams ("Authentication with the Bot Connector API").
ISSUER = "https://api.botframework.com"
#: How long Teams waits for the response of the app.
RESPONSE_TIMEOUT_SECONDS = 15
#: How long a genuine token is reused, as Teams does; it expires after an hour.
TOKEN_REUSE_SECONDS = 300
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class ActivitySender:
    """Posts activities to the app over one connection pool."""

    def __init__(self, keys: KeyRing, app_id: str) -> None:
        self._keys = keys
        self._app_id = app_id
        self._session: aiohttp.ClientSession | None = None
        self._genuine_tokens: dict[tuple[str, str], tuple[str, float]] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, activity: dict[str, Any], endpoint: str, forgery: Forgery | None) -> AppResponse:
        """Post one activity and return the response of the app; raises ValueError for an endpoint elsewhere."""
        check_endpoint(endpoint)
        service_url = str(activity.get("serviceUrl", ""))
        authorization = self._sign(service_url) if forgery is None else await self._forge(forgery, service_url)
        body = orjson.dumps(activity) if forgery is None or forgery.body is None else forgery.body.encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if authorization:
            headers["Authorization"] = authorization
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT_SECONDS))
        started = time.monotonic()
        try:
            async with self._session.post(endpoint, data=body, headers=headers) as response:
                text = await response.text()
                status: int | None = response.status
                error = None
        except TimeoutError:
            status, text, error = None, "", f"no response within {RESPONSE_TIMEOUT_SECONDS} s"
        except aiohttp.ClientError as failure:
            status, text, error = None, "", str(failure) or type(failure).__name__
        seconds = time.monotonic() - started
        return AppResponse(activity=activity, status=status, body=text, seconds=seconds, error=error)

    def _sign(self, service_url: str) -> str:
        key, now = self._keys.current, time.time()
        token, signed = self._genuine_tokens.get((key.kid, service_url), ("", 0.0))
        if now - signed > TOKEN_REUSE_SECONDS:
            token = _encode(self._claims(service_url, Forgery()), key)
            self._genuine_tokens[(key.kid, service_url)] = (token, now)
        return f"Bearer {token}"

    async def _forge(self, forgery: Forgery, service_url: str) -> str:
        if forgery.authorization is not None:
            return forgery.authorization
        key = await self._keys.get_named(forgery.key)
        claims = self._claims(service_url, forgery)
        if forgery.algorithm == "none":
            token = jwt.encode(claims, "", algorithm="none", headers={"kid": key.kid})
        elif forgery.algorithm == "HS256":
            token = _hs256_with_public_key(claims, key)
        else:
            token = _encode(claims, key)
        if forgery.tamper:
            header, _, signature = token.split(".")
            payload = jwt.encode({**claims, "tampered": True}, "", algorithm="none").split(".")[1]
            token = f"{header}.{payload}.{signature}"
        return f"Bearer {token}"

    def _claims(self, service_url: str, forgery: Forgery) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "serviceurl": service_url,
            "iss": ISSUER,
            "aud": self._app_id,
            "iat": now + forgery.valid_in,
            "nbf": now + forgery.valid_in,
            "exp": now + forgery.expires_in,
            **forgery.claims,
        }
        return {name: value for name, value in claims.items() if value is not None}


def check_endpoint(endpoint: str) -> None:
    """Raise ValueError unless the endpoint is on this machine."""
    if urlsplit(endpoint).hostname not in LOOPBACK_HOSTS:
        raise ValueError("the endpoint must be on loopback: use 127.0.0.1")


def _encode(claims: dict[str, Any], key: SigningKey) -> str:
    return jwt.encode(claims, key.private, algorithm="RS256", headers={"kid": key.kid, "x5t": key.kid})


def _hs256_with_public_key(claims: dict[str, Any], key: SigningKey) -> str:
    """Sign with the public key as a shared secret, an attack on verifiers that trust the algorithm in the token."""
    # PyJWT refuses a PEM as an HMAC key, so the token is assembled here.
    header = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    parts = [base64url_encode(orjson.dumps(part)) for part in (header, claims)]
    signature = hmac.digest(key.public_pem(), b".".join(parts), "sha256")
    return b".".join([*parts, base64url_encode(signature)]).decode()
