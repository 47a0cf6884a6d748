"""The token endpoint of Entra ID, v2.0, for the client credentials grant, and the verification of its tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from local.fake_teams.api import Behaviour
from local.fake_teams.errors import EntraError

#: The supported scopes, and the audience of their tokens.
AUDIENCES = {"https://api.botframework.com/.default": "https://api.botframework.com"}
CONNECTOR_AUDIENCE = "https://api.botframework.com"
#: The authority that multi-tenant bots use instead of their own tenant.
MULTI_TENANT_AUTHORITY = "botframework.com"


@dataclass(frozen=True, slots=True)
class BotRegistration:
    """The registration of the app: its id, its secret, and its tenant."""

    app_id: str
    password: str
    tenant: str


class TokenIssuer:
    """Issues access tokens and verifies them."""

    def __init__(self, bot: BotRegistration, behaviour: Behaviour) -> None:
        self.bot = bot
        self._behaviour = behaviour
        self._verified: dict[str, tuple[int, float]] = {}
        self._number = 0
        self._revoked = 0
        self.clear()

    async def create_key(self) -> None:
        self._key = await asyncio.to_thread(rsa.generate_private_key, public_exponent=65537, key_size=2048)

    def clear(self) -> None:
        """Reset the counts; tokens stay valid."""
        self.issued = 0
        self.used: set[int] = set()

    def discovery(self, base: str, tenant: str) -> dict[str, Any]:
        """Return the OpenID configuration of a tenant; raises `EntraError` for an unknown one."""
        self._check_tenant(tenant)
        root = f"{base}/{tenant}"
        return {
            "issuer": f"{root}/v2.0",
            "token_endpoint": f"{root}/oauth2/v2.0/token",
            "authorization_endpoint": f"{root}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{root}/oauth2/v2.0/devicecode",
            "jwks_uri": f"{root}/discovery/v2.0/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def grant(self, base: str, tenant: str, form: Mapping[str, Any]) -> dict[str, Any]:
        """Return the token response (RFC 6749, 5.1) to a form; raises `EntraError`."""
        self._check_tenant(tenant)
        if form.get("grant_type") != "client_credentials":
            raise EntraError(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        if form.get("client_id") != self.bot.app_id:
            raise EntraError(400, "unauthorized_client", 700016, "Application was not found in the directory.")
        if not form.get("client_secret"):
            text = "The request body must contain 'client_assertion' or 'client_secret'."
            raise EntraError(401, "invalid_client", 7000218, text)
        if form["client_secret"] != self.bot.password:
            raise EntraError(401, "invalid_client", 7000215, "Invalid client secret provided.")
        audience = AUDIENCES.get(str(form.get("scope", "")))
        if audience is None:
            raise EntraError(400, "invalid_scope", 70011, "The provided value for the scope is not valid.")
        now = int(time.time())
        self._number += 1
        self.issued += 1
        lifetime = self._behaviour.token_lifetime
        claims = {
            "aud": audience,
            "iss": f"{base}/{tenant}/v2.0",
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "appid": self.bot.app_id,
            "tid": self.bot.tenant,
            "uti": str(self._number),
            "ver": "1.0",
        }
        token = jwt.encode(claims, self._key, algorithm="RS256")
        return {
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": token,
        }

    def check(self, authorization: str | None) -> int | None:
        """Return the sequence number of the Connector token in this header; None if it is not valid."""
        if authorization is None or not authorization.startswith("Bearer "):
            return None
        token = authorization[7:]
        # The signature is verified only once, because thousands of messages use the same token.
        verified = self._verified.get(token) or self._verify(token)
        if verified is None:
            return None
        self._verified[token] = verified
        number, expires = verified
        if number <= self._revoked or time.time() >= expires:
            return None
        self.used.add(number)
        return number

    def revoke(self) -> None:
        """Revoke all tokens issued so far."""
        self._revoked = self._number

    def _verify(self, token: str) -> tuple[int, float] | None:
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                audience=CONNECTOR_AUDIENCE,
                options={"require": ["exp"]},
            )
        except jwt.InvalidTokenError:
            return None
        return (int(claims["uti"]), float(claims["exp"])) if claims.get("appid") == self.bot.app_id else None

    def _check_tenant(self, tenant: str) -> None:
        if tenant.lower() not in (self.bot.tenant.lower(), MULTI_TENANT_AUTHORITY):
            raise EntraError(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")
