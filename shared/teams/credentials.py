"""Request access tokens from Entra ID with msal, by the credential that the settings name.

That is a user-assigned managed identity, or an app registration with a client secret, with a certificate, or with a
managed identity that it trusts (a federated credential).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shared.certificates import read_certificate

if TYPE_CHECKING:
    from shared.settings import Settings

#: Timeout of a request to the token service, and of one to the endpoint of the managed identities.
TIMEOUT_SECONDS = 20

_MICROSOFT = ("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn")
#: The resource of the assertion, by the host of the authority ("Configure an application to trust a managed identity",
#: Microsoft Learn).
_EXCHANGE_RESOURCE = "api://AzureADTokenExchange"
_EXCHANGE_RESOURCES = {
    "login.microsoftonline.us": "api://AzureADTokenExchangeUSGov",
    "login.partner.microsoftonline.cn": "api://AzureADTokenExchangeChina",
}


class _NoAssertion(Exception):
    """The managed identity got no token for its assertion; the text is the code."""


def request_token(settings: Settings, scope: str, authority: str) -> dict[str, Any]:
    """Request a token for `scope` (`https://resource/.default`) from `authority` (`https://host/tenant`).

    Return `access_token` and `expires_in` (seconds), or `error`: a code or the kind of failure, never a secret. With
    UserAssignedMSI, the token is always of the identity's own tenant, whatever the authority.
    Call it in a thread, because msal blocks and imports slowly. Each request has its own application object: the cache
    of an older one would return a token that was refused since.
    """
    import msal

    try:
        if settings.effective_app_type == "UserAssignedMSI":
            return _request_identity_token(settings.app_id, scope.removesuffix("/.default"))
        application = msal.ConfidentialClientApplication(
            settings.app_id,
            authority=authority,
            client_credential=_credential(settings, authority),
            instance_discovery=None if urlsplit(authority).hostname in _MICROSOFT else False,
            timeout=TIMEOUT_SECONDS,
        )
        return dict(application.acquire_token_for_client(scopes=[scope]))
    except _NoAssertion as error:
        return {"error": str(error)}
    # requests raises OSError, also if the file of REQUESTS_CA_BUNDLE is missing. ManagedIdentityError is a ValueError.
    except (OSError, ValueError, msal.exceptions.MsalError) as error:
        return {"error": type(error).__name__}


def exchange_resource(authority: str) -> str:
    """Return the resource for which a managed identity gets the token that this authority takes as an assertion."""
    return _EXCHANGE_RESOURCES.get(urlsplit(authority).hostname or "", _EXCHANGE_RESOURCE)


def _credential(settings: Settings, authority: str) -> str | dict[str, Any]:
    """Return what msal calls `client_credential`."""
    if settings.app_certificate:
        from cryptography.hazmat.primitives.serialization import Encoding

        key, certificate = read_certificate(settings.app_certificate)
        # Without "thumbprint", which is SHA-1, msal takes the SHA-256 of the certificate, and signs with PS256.
        return {"private_key": key, "public_certificate": certificate.public_bytes(Encoding.PEM).decode()}
    if settings.federated_client_id:
        return {"client_assertion": partial(_assertion, settings.federated_client_id, exchange_resource(authority))}
    return settings.app_password


def _assertion(client_id: str, resource: str) -> str:
    try:
        answer = _request_identity_token(client_id, resource)
    except (OSError, ValueError) as error:
        answer = {"error": type(error).__name__}
    if not answer.get("access_token"):
        raise _NoAssertion(f"{answer.get('error') or 'no access_token in the answer'} of the managed identity")
    return str(answer["access_token"])


def _request_identity_token(client_id: str, resource: str) -> dict[str, Any]:
    """Return msal's answer for a user-assigned identity; raise `OSError` or `ValueError`."""
    import msal
    import requests

    session = requests.Session()
    session.request = partial(session.request, timeout=TIMEOUT_SECONDS)
    identity = msal.UserAssignedManagedIdentity(client_id=client_id)
    client = msal.ManagedIdentityClient(identity, http_client=session)
    return dict(client.acquire_token_for_client(resource=resource))
