"""Interpret an answer of Microsoft Graph to a request.

What Graph answers as Teams does is interpreted by `shared.teams.outcome`. The rules are those of "Microsoft Graph error
responses", "Paging", "JSON batching" and of each request's own page (Microsoft Learn).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
from multidict import CIMultiDict

from shared.states import Reason
from shared.teams import outcome as teams
from shared.teams.outcome import Outcome, Verdict, retry_after

#: Most requests in a batch, and most users on a page.
MAX_BATCH, PAGE_SIZE = 20, 999
#: Longest cursor, in characters, so that it can be stored. Graph's have up to some 2,000.
MAX_CURSOR_CHARS = 8000
#: Longest locale, in characters, such as `de-DE`.
MAX_LOCALE_CHARS = 35


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of request: the permission that it needs, and the reason for its 404.

    Without a usable answer, one that `installs` may have been executed. It may be repeated all the same.
    """

    permission: str
    not_found: Reason
    installs: bool = False


FIND_PERSON = Operation("User.Read.All", Reason.UNKNOWN_PERSON)
LIST_ORGANISATION = Operation("User.Read.All", Reason.BAD_REQUEST)
LIST_GROUP = Operation("GroupMember.Read.All", Reason.UNKNOWN_GROUP)
FIND_APP = Operation("AppCatalog.Read.All", Reason.APP_NOT_IN_CATALOGUE)
READ_MAILBOX = Operation("MailboxSettings.Read", Reason.UNKNOWN_PERSON)
_FOR_USER, _FOR_TEAM = (f"TeamsAppInstallation.ReadWriteSelfFor{whom}.All" for whom in ("User", "Team"))
CHECK_PERSON = Operation(_FOR_USER, Reason.UNKNOWN_PERSON)
CHECK_TEAM = Operation(_FOR_TEAM, Reason.UNKNOWN_GROUP)
INSTALL_FOR_PERSON = Operation(_FOR_USER, Reason.UNKNOWN_PERSON, installs=True)
INSTALL_FOR_TEAM = Operation(_FOR_TEAM, Reason.UNKNOWN_GROUP, installs=True)


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the organisation; `id` is its Entra object id in lower case."""

    id: str
    enabled: bool
    guest: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some people of a list, all enabled; how many are left out, by reason; and the cursor of the next page, or ""."""

    people: Sequence[Account]
    left_out: Mapping[Reason, int]
    cursor: str


@dataclass(frozen=True, slots=True)
class Installed:
    """The app is installed. If it was before (`already`), Teams sends no event of it."""

    already: bool


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """The IANA time zone and the locale (`de-DE`) of a person's mailbox; each is "" if it is not known."""

    time_zone: str = ""
    locale: str = ""


#: The outcome of an install of what is installed.
ALREADY_INSTALLED = Outcome(Verdict.DONE)
#: The outcome of a 2xx that does not have what was asked for.
UNUSABLE = Outcome(Verdict.RETRY, Reason.NO_ANSWER)

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_USER_TYPE = "#microsoft.graph.user"
_VERDICTS = {Reason.UNKNOWN_PERSON: Verdict.SUPPRESSED, Reason.BLOCKED_BY_POLICY: Verdict.SUPPRESSED}
#: What Graph writes in a 403, whose code is `Forbidden` for many causes. The message about a policy also has the word
#: "permission".
_POLICY = re.compile(r"\bpolic(y|ies)\b|\b(is|was) blocked\b|\bblocked by\b|\bdisabled by\b", re.IGNORECASE)
_PERMISSION = re.compile(
    r"missing \w+ permissions|insufficient privileges|not allowed to manage|not authorized|access is denied",
    re.IGNORECASE,
)
_PERMISSION_CODES = {"authorization_requestdenied", "erroraccessdenied", "accessdenied"}
_EXPIRED_CURSOR = re.compile(r"skip ?token|page ?token|paging token", re.IGNORECASE)
_INVALID_ID = re.compile(r"invalid object identifier|valid guid", re.IGNORECASE)


def classify(
    operation: Operation,
    status: int,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    now: datetime,
    *,
    has_cursor: bool = False,
) -> Outcome:
    """Return the outcome of an answer; `headers` must be case-insensitive and `now` aware.

    `body` is the JSON object in the answer, and is that of the outcome, also after a failure. `has_cursor` means that
    the request was for a further page of a list.
    """
    if 200 <= status < 300:
        return Outcome(Verdict.DONE, body=body)
    if status == 409 and operation.installs:
        return ALREADY_INSTALLED
    wait = retry_after(headers.get("Retry-After"), now)
    reason = _refusal(operation, status, _text(body, "code"), _text(body, "message"))
    if has_cursor and (status == 410 or (status == 400 and _is_expired(_text(body, "code"), _text(body, "message")))):
        return Outcome(Verdict.RETRY, Reason.LIST_EXPIRED, wait, body=body)
    if reason:
        return Outcome(_VERDICTS.get(reason, Verdict.FAILED), reason, wait, body=body)
    if status == 403:
        return Outcome(Verdict.RETRY, Reason.NOT_PERMITTED, wait, body=body)
    if status == 408 or status >= 500:
        verdict = Verdict.UNKNOWN if operation.installs else Verdict.RETRY
        return Outcome(verdict, Reason.NO_ANSWER, wait, body=body)
    shared = teams.classify(status, headers, b"", now)
    return Outcome(shared.verdict, shared.reason, wait, body=body)


def is_unsupported_query(outcome: Outcome) -> bool:
    """Return whether Graph refused a list because its cast or filter does not fit what is listed."""
    return outcome.reason is Reason.BAD_REQUEST and _text(outcome.body, "code") == "Request_UnsupportedQuery"


def encode_batch(paths: Sequence[str]) -> bytes:
    """Return the body of a batch that gets these paths, relative to the version; at most `MAX_BATCH`."""
    return orjson.dumps(
        {"requests": [{"id": str(number), "method": "GET", "url": path} for number, path in enumerate(paths)]}
    )


def read_batch(operation: Operation, body: Mapping[str, Any], count: int, now: datetime) -> Sequence[Outcome]:
    """Return the outcome of each of the `count` parts of a batch, in the order of their requests."""
    outcomes, positions = [UNUSABLE] * count, {str(number): number for number in range(count)}
    for part in _rows(body.get("responses")) or ():
        number, status = str(part.get("id")), part.get("status")
        if number in positions and isinstance(status, int):
            found = part.get("headers")
            headers = CIMultiDict({str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {})
            content = part.get("body")
            value = content if isinstance(content, dict) else {}
            outcomes[positions[number]] = classify(operation, status, headers, value, now)
    return outcomes


def read_person(row: Mapping[str, Any]) -> Account | None:
    """Return the person of a user object, None if it does not say who it is or whether the account is enabled."""
    identifier, enabled = row.get("id"), row.get("accountEnabled")
    if not isinstance(identifier, str) or not _UUID.fullmatch(identifier) or not isinstance(enabled, bool):
        return None
    # Accounts that were synchronised before 2014 have no `userType`, and are members.
    return Account(identifier.lower(), enabled, str(row.get("userType")).lower() == "guest")


def read_found_person(outcome: Outcome) -> Account | Outcome:
    """Return the person that a request for one, or for those of a mail address, found."""
    if outcome.verdict is not Verdict.DONE:
        return outcome
    if "value" not in outcome.body:
        return read_person(outcome.body) or (_unreadable() if outcome.body else UNUSABLE)
    rows = _rows(outcome.body["value"])
    if rows is None:
        return UNUSABLE
    # Nobody knows which of several is meant.
    return read_person(rows[0]) or _unreadable() if len(rows) == 1 else unknown_person()


def unknown_person() -> Outcome:
    return Outcome(Verdict.SUPPRESSED, Reason.UNKNOWN_PERSON)


def read_page(body: Mapping[str, Any], url: str, *, cursor: str, with_guests: bool) -> Page | Outcome:
    """Return the page in an answer of the Graph at `url` to the request with `cursor`."""
    rows = _rows(body.get("value"))
    if rows is None:
        return UNUSABLE
    next_cursor = body.get("@odata.nextLink") or ""
    if next_cursor and (next_cursor == cursor or not is_cursor(next_cursor, url)):
        return Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
    people, left_out = list[Account](), Counter[Reason]()
    for row in rows:
        if (row.get("@odata.type") or _USER_TYPE) != _USER_TYPE:
            continue
        person = read_person(row)
        if person is None:
            left_out[Reason.NOT_READABLE] += 1
        elif not person.enabled:
            left_out[Reason.ACCOUNT_DISABLED] += 1
        elif person.guest and not with_guests:
            left_out[Reason.GUEST] += 1
        else:
            people.append(person)
    return Page(people, left_out, next_cursor)


def is_cursor(text: object, url: str) -> bool:
    """Return whether `text` is the link to a page of the Graph at `url`, and short enough to be stored."""
    if not isinstance(text, str) or len(text) > MAX_CURSOR_CHARS or not text.isascii() or not text.isprintable():
        return False
    if set(text) & set(' \\"<>^`{|}'):
        return False
    try:
        parts, graph = urlsplit(text), urlsplit(url)
        is_same = (parts.scheme, parts.hostname, parts.port) == (graph.scheme, graph.hostname, graph.port)
    except ValueError:
        return False
    return is_same and parts.username is None and parts.path.startswith("/v1.0/")


def read_catalogue_id(outcome: Outcome) -> str | Outcome:
    """Return the id in the catalogue of the app that a request for it found."""
    if outcome.verdict is not Verdict.DONE:
        return outcome
    rows = _rows(outcome.body.get("value"))
    if rows is None:
        return UNUSABLE
    # An app may be both in the store and in the organisation's own catalogue.
    rows.sort(key=lambda row: row.get("distributionMethod") != "organization")
    ids = [row["id"] for row in rows if isinstance(row.get("id"), str) and row["id"]]
    return ids[0] if ids else Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE)


def read_is_installed(outcome: Outcome) -> bool | Outcome:
    """Return whether the list of installed apps, which was filtered by the app, has it."""
    if outcome.verdict is not Verdict.DONE:
        return outcome
    rows = _rows(outcome.body.get("value"))
    return UNUSABLE if rows is None else bool(rows)


def read_mailbox(outcome: Outcome) -> MailboxSettings | Outcome:
    """Return the settings of a mailbox; those of a person without one are empty."""
    if outcome.reason is Reason.UNKNOWN_PERSON:
        return MailboxSettings()
    if outcome.verdict is not Verdict.DONE:
        return outcome
    from shared.time.zone_names import find_zone

    language = outcome.body.get("language")
    locale, zone = language.get("locale") if isinstance(language, dict) else "", outcome.body.get("timeZone")
    return MailboxSettings(
        (find_zone(zone) or "") if isinstance(zone, str) else "",
        locale if isinstance(locale, str) and len(locale) <= MAX_LOCALE_CHARS else "",
    )


def is_object_id(text: str) -> bool:
    """Return whether `text` is a UUID, as object ids are."""
    return bool(_UUID.fullmatch(text))


def _refusal(operation: Operation, status: int, code: str, message: str) -> Reason | None:
    if status == 403 and _POLICY.search(message):
        return Reason.BLOCKED_BY_POLICY
    if status == 403 and (code.lower() in _PERMISSION_CODES or _PERMISSION.search(message)):
        return Reason.GRAPH_PERMISSION_MISSING
    if status == 404 or (status == 400 and _INVALID_ID.search(message)):
        return operation.not_found
    return None


def _is_expired(code: str, message: str) -> bool:
    return code == "Directory_ExpiredPageToken" or bool(_EXPIRED_CURSOR.search(message))


def _unreadable() -> Outcome:
    return Outcome(Verdict.FAILED, Reason.NOT_READABLE)


def _rows(value: object) -> list[dict[str, Any]] | None:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else None


def _text(value: Mapping[str, Any], name: str) -> str:
    error = value.get("error")
    text = error.get(name) if isinstance(error, dict) else None
    return text if isinstance(text, str) else ""
