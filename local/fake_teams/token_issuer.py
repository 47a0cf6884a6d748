"""The token endpoint of Entra ID, v2.0, for the client credentials grant, and the verification of its tokens.

The app proves its identity by its secret, or by an assertion that a registered certificate or a trusted issuer signed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.utils import base64url_encode

from local.fake_teams.api import Behaviour, Credentials
from local.fake_teams.errors import EntraError, GraphError
from local.fake_teams.world import World

#: The audience of the tokens for the Bot Connector; those for Graph are for the URL of the fake.
CONNECTOR_AUDIENCE = "https://api.botframework.com"
#: The authority that multi-tenant bots use instead of their own tenant.
MULTI_TENANT_AUTHORITY = "botframework.com"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class BotRegistration:
    """The registration of the app: its id, its secret, and its tenant."""

    app_id: str
    password: str
    tenant: str


class _Verified(NamedTuple):
    """The claims of a token with a valid signature; `expires` is Unix time."""

    number: int
    expires: float
    audience: str
    tenant: str


class TokenIssuer:
    """Issues access tokens and verifies them."""

    def __init__(self, bot: BotRegistration, behaviour: Behaviour, world: World) -> None:
        self.bot = bot
        self.credentials = Credentials()
        self._behaviour = behaviour
        self._world = world
        self._verified: dict[str, _Verified] = {}
        self._number = 0
        self._revoked = 0
        self.clear()

    async def create_key(self) -> None:
        self._key = await asyncio.to_thread(rsa.generate_private_key, public_exponent=65537, key_size=2048)

    def clear(self) -> None:
        """Reset the counts; tokens stay valid."""
        self.issued_by: Counter[str] = Counter()
        self.used: set[int] = set()

    @property
    def issued(self) -> int:
        return self.issued_by.total()

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
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
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
        credential = self._authenticate(f"{base}/{tenant}", form)
        audience, suffix, _ = str(form.get("scope", "")).partition("/.default")
        if audience not in (CONNECTOR_AUDIENCE, base) or suffix != "/.default":
            raise EntraError(400, "invalid_scope", 70011, "The provided value for the scope is not valid.")
        owner = self.bot.tenant if tenant.lower() == MULTI_TENANT_AUTHORITY else tenant.lower()
        if audience == CONNECTOR_AUDIENCE and owner != self.bot.tenant.lower():
            raise EntraError(400, "unauthorized_client", 700016, "Application was not found in the directory.")
        self.issued_by[credential] += 1
        return self.issue(f"{base}/{tenant}/v2.0", owner, audience)

    def issue(self, issuer: str, tenant: str, audience: str) -> dict[str, Any]:
        """Return a token response without a request; it does not count."""
        now = int(time.time())
        self._number += 1
        lifetime = self._behaviour.token_lifetime
        claims = {
            "aud": audience,
            "iss": issuer,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "appid": self.bot.app_id,
            "tid": tenant,
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
        verified = self._read(authorization)
        if verified is None or verified.audience != CONNECTOR_AUDIENCE or self._is_over(verified):
            return None
        self.used.add(verified.number)
        return verified.number

    def check_graph(self, authorization: str | None, base: str) -> str:
        """Return the tenant of the Graph token in this header; raises `GraphError` 401."""
        if authorization is None:
            raise GraphError(401, message="Access token is empty.")
        verified = self._read(authorization)
        if verified is None:
            raise GraphError(401, message="Access token validation failure. Invalid signature.")
        if verified.audience != base:
            raise GraphError(401, message="Access token validation failure. Invalid audience.")
        if self._is_over(verified):
            raise GraphError(401, message="Lifetime validation failed, the token is expired.")
        self.used.add(verified.number)
        return verified.tenant

    def revoke(self) -> None:
        """Revoke all tokens issued so far."""
        self._revoked = self._number

    def _is_over(self, verified: _Verified) -> bool:
        return verified.number <= self._revoked or time.time() >= verified.expires

    def _read(self, authorization: str | None) -> _Verified | None:
        """Return the content of the token in this header, also of an expired one; None if its signature is wrong."""
        if authorization is None or not authorization.startswith("Bearer "):
            return None
        token = authorization[7:]
        # The signature is verified only once, because thousands of messages use the same token.
        verified = self._verified.get(token) or self._verify(token)
        if verified is not None:
            self._verified[token] = verified
        return verified

    def _verify(self, token: str) -> _Verified | None:
        options: Any = {"require": ["exp"], "verify_aud": False, "verify_exp": False}
        try:
            claims = jwt.decode(token, self._key.public_key(), algorithms=["RS256"], options=options)
        except jwt.InvalidTokenError:
            return None
        if claims.get("appid") != self.bot.app_id:
            return None
        return _Verified(int(claims["uti"]), float(claims["exp"]), str(claims["aud"]), str(claims["tid"]))

    def _check_tenant(self, tenant: str) -> None:
        if tenant.lower() not in (self.bot.tenant.lower(), MULTI_TENANT_AUTHORITY, *self._world.tenants):
            raise EntraError(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")

    def _authenticate(self, authority: str, form: Mapping[str, Any]) -> str:
        """Return the kind of credential in this form; raises `EntraError` if it does not prove the app's identity."""
        assertion = str(form.get("client_assertion") or "")
        if not assertion:
            if not form.get("client_secret"):
                text = "The request body must contain 'client_assertion' or 'client_secret'."
                _refuse(7000218, text)
            if form["client_secret"] != self.bot.password or not self.credentials.secret:
                _refuse(7000215, "Invalid client secret provided.")
            return "secret"
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise EntraError(400, "invalid_request", 90027, "The client_assertion_type is not supported.")
        try:
            header = jwt.get_unverified_header(assertion)
            issuer = jwt.decode(assertion, options={"verify_signature": False}).get("iss")
        except jwt.InvalidTokenError:
            _refuse(50027, "JWT token is invalid or malformed.")
        if issuer == self.bot.app_id:
            self._check_certificate(authority, header, assertion)
            return "certificate"
        self._check_federated(issuer, header, assertion)
        return "federated"

    def _check_certificate(self, authority: str, header: dict[str, Any], assertion: str) -> None:
        """Verify an assertion that the app signed itself ("Microsoft identity platform certificate credentials")."""
        key: Any = None
        for pem in self.credentials.certificates:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            # A thumbprint is not the signature: Entra ID also takes the older SHA-1.
            for name, algorithm in (("x5t#S256", hashes.SHA256()), ("x5t", hashes.SHA1())):  # noqa: S303
                # msal pads the thumbprint, others do not.
                if str(header.get(name)).rstrip("=") == base64url_encode(certificate.fingerprint(algorithm)).decode():
                    key = certificate.public_key()
        if key is None:
            text = "The certificate with identifier used to sign the client assertion is not registered on application."
            _refuse(700027, text)
        audiences = [f"{authority}/oauth2/v2.0/token", f"{authority}/v2.0"]
        claims = _decode(assertion, key, audiences)
        if claims["sub"] != self.bot.app_id:
            _refuse(700021, "Client assertion application identifier doesn't match 'client_id' parameter.")

    def _check_federated(self, issuer: object, header: dict[str, Any], assertion: str) -> None:
        """Verify an assertion of an issuer that the app trusts ("Workload identity federation")."""
        trusted = [each for each in self.credentials.federated if each.issuer == issuer]
        if not trusted:
            _refuse(700211, f"No matching federated identity record found for presented assertion issuer '{issuer}'.")
        unverified = jwt.decode(assertion, options={"verify_signature": False})
        for number, name in ((700213, "subject"), (700212, "audience")):
            presented = unverified.get("sub" if name == "subject" else "aud")
            trusted = [each for each in trusted if getattr(each, name) == presented]
            if not trusted:
                text = f"No matching federated identity record found for presented assertion {name} '{presented}'."
                _refuse(number, text)
        keys = [key for key in jwt.PyJWKSet.from_dict(trusted[0].keys).keys if key.key_id == header.get("kid")]
        if not keys:
            _refuse(50013, "Assertion failed signature validation. [Reason - The key was not found.]")
        _decode(assertion, keys[0].key, [trusted[0].audience])


def _decode(assertion: str, key: Any, audiences: list[str]) -> dict[str, Any]:
    """Return the claims of an assertion; raises `EntraError` for a wrong signature, audience or time."""
    try:
        return jwt.decode(
            assertion,
            key,
            algorithms=["RS256", "PS256"],
            audience=audiences,
            options={"require": ["exp", "iss", "sub"]},
        )
    except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
        _refuse(700024, "Client assertion is not within its valid time range.")
    except jwt.InvalidAudienceError:
        _refuse(700023, "Client assertion audience claim does not match Realm issuer.")
    except jwt.MissingRequiredClaimError as error:
        _refuse(50027, f"JWT token is invalid or malformed: {error}.")
    except jwt.InvalidTokenError:
        text = "Client assertion failed signature validation. [Reason - The key was found, but it did not match.]"
        _refuse(700027, text)


def _refuse(number: int, text: str) -> NoReturn:
    raise EntraError(401, "invalid_client", number, text)
