"""Tokens of activities that do not come from Teams, by name; an app must refuse each of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from local.fake_teams.api import Forgery

#: The app must respond with 401 to each. Publish `unendorsed` and `otherChannel` (`add_key`) before the app fetches the
#: keys; otherwise it refuses them as unknown keys, which proves less.
FORGERIES: Mapping[str, Forgery] = MappingProxyType(
    {
        "no header": Forgery(authorization=""),
        "empty bearer": Forgery(authorization="Bearer "),
        "another scheme": Forgery(authorization="Basic aGVyYWxkOmhlcmFsZA=="),
        "garbage": Forgery(authorization="Bearer not.a.token"),
        "garbage without dots": Forgery(authorization="Bearer garbage"),
        "unknown key": Forgery(key="unknown"),
        "another key under the current key's id": Forgery(key="impostor"),
        "key without endorsements": Forgery(key="unendorsed"),
        "key endorsed for another channel": Forgery(key="otherChannel"),
        "algorithm none": Forgery(algorithm="none"),
        "public key as a shared secret": Forgery(algorithm="HS256"),
        "claims changed after signing": Forgery(tamper=True),
        "another issuer": Forgery(claims={"iss": "https://sts.windows.net/d6d49420-f39b-4df7-a1dc-d59a935871db/"}),
        "no issuer": Forgery(claims={"iss": None}),
        "another audience": Forgery(claims={"aud": "11111111-1111-4111-8111-111111111111"}),
        "no audience": Forgery(claims={"aud": None}),
        "expired": Forgery(expires_in=-3600, valid_in=-7200),
        "no expiry": Forgery(claims={"exp": None}),
        "not valid yet": Forgery(valid_in=3600, expires_in=7200),
        "another service URL": Forgery(claims={"serviceurl": "https://smba.trafficmanager.net/teams/"}),
        "no service URL": Forgery(claims={"serviceurl": None}),
    }
)
