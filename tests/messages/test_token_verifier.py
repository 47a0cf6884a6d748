from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Callable

import aiohttp
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from messages.auth.signing_keys import MAX_DOCUMENT_BYTES, KeysUnavailable, SigningKeys, select_trusted_keys
from messages.auth.token_verifier import MAX_HEADER_CHARS, TokenRefused, TokenVerifier
from tests.messages.conftest import (
    APP,
    ISSUER,
    SERVICE_URL,
    Clock,
    OpenIdServer,
    bearer,
    private_key,
    public_jwk,
    sign_token,
    token_claims,
)


@pytest.fixture
def verifier(keys: SigningKeys) -> TokenVerifier:
    return TokenVerifier(keys, issuer=ISSUER, app_id=APP)


def _encode(part: object) -> str:
    raw = part if isinstance(part, bytes) else orjson.dumps(part)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unsigned_token(header: object, signature: str = "c2ln") -> str:
    return f"Bearer {_encode(header)}.{_encode(token_claims())}.{signature}"


def _token_signed_with_public_key() -> str:
    """Return a token signed by HS256, with the published key as the shared secret."""
    pem = (
        private_key(1)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT', 'kid': 'key-1'})}.{_encode(token_claims())}"
    return f"Bearer {signed}.{_encode(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def _token_changed_after_signing() -> str:
    header, _, signature = sign_token().split(".")
    return f"Bearer {header}.{_encode(token_claims(serviceurl='https://elsewhere.example/'))}.{signature}"


async def test_verified_token_has_its_service_url(verifier: TokenVerifier) -> None:
    assert await verifier.verify(bearer()) == SERVICE_URL
    assert await verifier.verify(bearer(serviceurl=None)) == ""


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512"])
async def test_rsa_algorithms_are_accepted(verifier: TokenVerifier, algorithm: str) -> None:
    assert await verifier.verify(bearer(algorithm=algorithm)) == SERVICE_URL


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer    "])
async def test_scheme_is_accepted_in_any_case_and_with_any_spaces(verifier: TokenVerifier, scheme: str) -> None:
    assert await verifier.verify(scheme + sign_token()) == SERVICE_URL


@pytest.mark.parametrize("changed", [{"exp": -290}, {"nbf": 290}])
async def test_clocks_may_differ_by_five_minutes(verifier: TokenVerifier, changed: dict[str, int]) -> None:
    assert await verifier.verify(bearer(**changed)) == SERVICE_URL


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: "", id="no header"),
        pytest.param(lambda: "Bearer", id="no token"),
        pytest.param(lambda: "Bearer ", id="empty token"),
        pytest.param(lambda: "Basic aGVyYWxkOmhlcmFsZA==", id="another scheme"),
        pytest.param(lambda: "Bearer garbage", id="garbage"),
        pytest.param(lambda: "Bearer a.b.c", id="three parts of garbage"),
        pytest.param(lambda: "Bearer é.é.é", id="not ascii"),
        pytest.param(lambda: "Bearer " + "a" * 100_000, id="huge"),
        pytest.param(lambda: f"Bearer {'a' * 3000}.{'b' * 3000}.{'c' * 3000}", id="huge in three parts"),
        pytest.param(lambda: _unsigned_token([]), id="header is a list"),
        pytest.param(lambda: _unsigned_token(b"[" * 5000), id="header is nested deeply"),
        pytest.param(lambda: _unsigned_token(b"\xff\xfe"), id="header is no text"),
        pytest.param(lambda: _unsigned_token({"alg": "none", "kid": "key-1"}), id="algorithm none"),
        pytest.param(lambda: _unsigned_token({"alg": "none", "kid": "key-1"}, ""), id="algorithm none, no signature"),
        pytest.param(lambda: _unsigned_token({"alg": "RS256", "kid": "key-1"}), id="bad signature"),
        pytest.param(lambda: _unsigned_token({"alg": "RS256", "kid": 5}), id="key id is a number"),
        pytest.param(lambda: _unsigned_token({"alg": "RS256"}), id="no key id"),
        pytest.param(lambda: _unsigned_token({"alg": ["RS256"], "kid": "key-1"}), id="algorithm is a list"),
        pytest.param(lambda: _unsigned_token({"kid": "key-1"}), id="no algorithm"),
        pytest.param(
            lambda: _unsigned_token({"alg": "RS256", "kid": "key-1", "crit": ["x"], "x": 1}), id="unknown crit"
        ),
        pytest.param(_token_signed_with_public_key, id="public key as a shared secret"),
        pytest.param(_token_changed_after_signing, id="changed after signing"),
        pytest.param(lambda: bearer(2), id="another key under a known id"),
        pytest.param(lambda: bearer(2, "key-2"), id="unknown key"),
        pytest.param(lambda: bearer(exp=-301), id="expired"),
        pytest.param(lambda: bearer(nbf=310), id="not valid yet"),
        pytest.param(lambda: bearer(aud="11111111-1111-4111-8111-111111111111"), id="another audience"),
        pytest.param(lambda: bearer(aud=[APP, "another"]), id="several audiences"),
        pytest.param(lambda: bearer(iss="https://sts.windows.net/d6d49420/"), id="another issuer"),
        pytest.param(lambda: bearer(iss=None), id="no issuer"),
        pytest.param(lambda: bearer(aud=None), id="no audience"),
        pytest.param(lambda: bearer(exp=None), id="no expiry"),
        pytest.param(lambda: bearer(exp="soon"), id="expiry is no number"),
        pytest.param(lambda: bearer(algorithm="PS256"), id="algorithm of another family"),
    ],
)
async def test_every_other_token_is_refused(verifier: TokenVerifier, make: Callable[[], str]) -> None:
    with pytest.raises(TokenRefused):
        await verifier.verify(make())


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.dictionaries(
                st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]),
                st.one_of(
                    st.none(),
                    st.booleans(),
                    st.integers(-(2**63), 2**63 - 1),
                    st.sampled_from(["RS256", "none", "key-1", "b64"]),
                ),
            ).map(orjson.dumps),
        ),
        min_size=3,
        max_size=3,
    )
)
async def test_arbitrary_token_is_refused_without_another_error(parts: list[bytes]) -> None:
    async with aiohttp.ClientSession() as session:
        keys = SigningKeys("http://127.0.0.1:9/unused", session, Clock())
        keys._keys = select_trusted_keys([public_jwk(1, "key-1", ["msteams"])])
        keys._read_at = keys._failed_at = keys._clock()
        with pytest.raises(TokenRefused):
            await TokenVerifier(keys, issuer=ISSUER, app_id=APP).verify("Bearer " + ".".join(map(_encode, parts)))


async def test_keys_are_read_once_for_all_waiting_callers(openid_server: OpenIdServer, verifier: TokenVerifier) -> None:
    openid_server.hold = asyncio.Event()
    waiting = [asyncio.create_task(verifier.verify(bearer())) for _ in range(100)]
    await asyncio.wait_for(openid_server.requested.wait(), 5)
    openid_server.hold.set()
    assert set(await asyncio.gather(*waiting)) == {SERVICE_URL}
    assert openid_server.requests == {"openid": 1, "keys": 1}


async def is_known(verifier: TokenVerifier) -> bool:
    """Return whether the first key is still used."""
    try:
        await verifier.verify(bearer())
    except TokenRefused:
        return False
    return True


async def test_known_key_needs_no_answer_of_the_openid_server(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock
) -> None:
    await verifier.verify(bearer())
    clock.advance(hours=25)
    hold = openid_server.hold = asyncio.Event()
    assert [await asyncio.wait_for(verifier.verify(bearer()), 1) for _ in range(20)] == [SERVICE_URL] * 20
    while openid_server.requests["openid"] < 2:
        await asyncio.sleep(0.01)
    hold.set()


async def test_keys_are_read_again_after_24_hours(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock
) -> None:
    await verifier.verify(bearer())
    clock.advance(hours=23, minutes=59)
    await verifier.verify(bearer())
    assert openid_server.requests["keys"] == 1
    openid_server.keys = [public_jwk(2, "key-2", ["msteams"])]
    clock.advance(minutes=1)
    assert await verifier.verify(bearer()) == SERVICE_URL  # by the key that is known, while the keys are read
    while openid_server.requests["keys"] < 2 or await is_known(verifier):
        await asyncio.sleep(0.01)
    assert await verifier.verify(bearer(2, "key-2")) == SERVICE_URL


async def test_new_key_is_accepted_immediately(openid_server: OpenIdServer, verifier: TokenVerifier) -> None:
    await verifier.verify(bearer())
    for number in (2, 3):
        openid_server.keys.append(public_jwk(number, f"key-{number}", ["msteams"]))
        assert await verifier.verify(bearer(number, f"key-{number}")) == SERVICE_URL


async def test_unknown_key_ids_cause_one_read_in_ten_seconds(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock
) -> None:
    async def flood() -> None:
        answers = await asyncio.gather(
            *(verifier.verify(bearer(2, f"unknown-{number}")) for number in range(50)), return_exceptions=True
        )
        assert all(isinstance(answer, TokenRefused) for answer in answers)

    await flood()
    assert openid_server.requests["keys"] == 1
    clock.advance(seconds=9.9)
    await flood()
    assert openid_server.requests["keys"] == 1
    clock.advance(seconds=0.1)
    await flood()
    assert openid_server.requests["keys"] == 2
    assert await verifier.verify(bearer()) == SERVICE_URL


@pytest.mark.parametrize("endorsements", [None, [], ["skype", "webchat"], "msteams", [["msteams"]]])
async def test_key_not_endorsed_for_teams_is_not_trusted(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock, endorsements: list[str] | None
) -> None:
    openid_server.keys = [public_jwk(1, "key-1", endorsements)]
    with pytest.raises(TokenRefused):
        await verifier.verify(bearer())
    clock.advance(minutes=1)
    with pytest.raises(TokenRefused):
        await verifier.verify(bearer())


@pytest.mark.parametrize(
    "key",
    [
        5,
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "endorsements": ["msteams"]},
        {"kty": "RSA", "kid": "x", "endorsements": ["msteams"]},
        {"kty": "RSA", "kid": "x", "n": "", "e": "AQAB", "endorsements": ["msteams"]},
        {"kty": "RSA", "kid": "x", "n": "!", "e": 5, "endorsements": ["msteams"]},
        {"kty": "RSA", "kid": 5, "n": "AQAB", "e": "AQAB", "endorsements": ["msteams"]},
    ],
)
async def test_unreadable_key_does_not_affect_the_others(
    openid_server: OpenIdServer, verifier: TokenVerifier, key: object
) -> None:
    openid_server.keys.insert(0, key)
    assert await verifier.verify(bearer()) == SERVICE_URL


async def test_old_keys_are_used_while_reads_fail(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await verifier.verify(bearer())
    clock.advance(hours=24)
    openid_server.status = 503
    for _ in range(5):
        assert await verifier.verify(bearer()) == SERVICE_URL
        await asyncio.sleep(0.1)
    assert openid_server.requests["openid"] == 2
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    clock.advance(seconds=10)
    openid_server.status = 200
    assert await verifier.verify(bearer()) == SERVICE_URL
    while openid_server.requests["keys"] < 2:
        await asyncio.sleep(0.01)
    assert openid_server.requests == {"openid": 3, "keys": 2}


async def test_keys_are_unavailable_until_the_first_read_succeeds(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    openid_server.status = 500
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(bearer())
    assert openid_server.requests["openid"] == 1
    assert re.search(r"could not be read from http://127.0.0.1:\d+/openid: .*500", caplog.text)
    openid_server.status = 200
    clock.advance(seconds=1)
    assert await verifier.verify(bearer()) == SERVICE_URL


@pytest.mark.parametrize("metadata", [[], {"issuer": ISSUER}, {"jwks_uri": 5}, {"jwks_uri": "not a url"}, "text"])
async def test_unreadable_metadata_is_a_failed_read(
    openid_server: OpenIdServer, verifier: TokenVerifier, metadata: object
) -> None:
    openid_server.metadata = metadata
    with pytest.raises(KeysUnavailable):
        await verifier.verify(bearer())


@pytest.mark.parametrize("is_metadata", [True, False])
async def test_larger_document_than_any_real_one_is_a_failed_read(
    openid_server: OpenIdServer, verifier: TokenVerifier, clock: Clock, is_metadata: bool
) -> None:
    if is_metadata:
        openid_server.metadata = {"jwks_uri": f"{openid_server.url}/keys", "more": "x" * MAX_DOCUMENT_BYTES}
    else:
        openid_server.keys.append("x" * MAX_DOCUMENT_BYTES)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(bearer())
    openid_server.metadata, openid_server.keys[1:] = None, []
    clock.advance(seconds=1)
    assert await verifier.verify(bearer()) == SERVICE_URL


async def test_longest_authorization_header_is_read_and_a_longer_one_is_refused(verifier: TokenVerifier) -> None:
    token = bearer()
    spaces = " " * (MAX_HEADER_CHARS - len(token))
    assert await verifier.verify(token.replace(" ", " " + spaces)) == SERVICE_URL
    with pytest.raises(TokenRefused):
        await verifier.verify(token.replace(" ", "  " + spaces))


async def test_unreachable_metadata_host_is_a_failed_read(session: aiohttp.ClientSession, clock: Clock) -> None:
    keys = SigningKeys("http://127.0.0.1:9/openid", session, clock)
    with pytest.raises(KeysUnavailable):
        await keys.find("key-1")


async def test_cancelled_caller_does_not_cancel_the_read_of_others(
    openid_server: OpenIdServer, verifier: TokenVerifier
) -> None:
    openid_server.hold = asyncio.Event()
    first = asyncio.create_task(verifier.verify(bearer()))
    await asyncio.wait_for(openid_server.requested.wait(), 5)
    second = asyncio.create_task(verifier.verify(bearer()))
    first.cancel()
    openid_server.hold.set()
    assert await second == SERVICE_URL
