"""List the recipients of a notification, page by page.

A recipient is written as its row key in table Deliveries: `u:` and an Entra object id, or `c:` and a conversation id.
All ids of one person resolve to the same `u:`, so a person in several audiences gets one delivery. `t:` and an id
stands for what cannot be reached: a team whose members Teams does not list, a guest without an object id, a channel of
another team; with a reason before the id (`unreachable`), also a person or group that Graph does not know. Nothing is
sent to it, and its row gives the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from notify.policy import is_probed
from notify.recipients import store_host
from shared.concurrency import gather_limited
from shared.contract.models import (
    AllRecipient,
    ChannelId,
    ChannelRecipient,
    ConversationRecipient,
    GroupRecipient,
    Recipient,
    TeamRecipient,
    TopicRecipient,
    UserRecipient,
)
from shared.conversation_ids import OBJECT_ID, channel_of
from shared.records import ConversationReference
from shared.services import Services
from shared.states import Reason, ReferenceKind, ReferenceStatus
from shared.teams.connector import Route
from shared.teams.graph_answers import Page
from shared.teams.outcome import Outcome, Verdict
from shared.teams.rate_limiter import RetryLater

#: Members that Teams returns per request ("Get Teams specific context": 50 to 500).
MIN_PAGE_MEMBERS, MAX_PAGE_MEMBERS = 50, 500
#: How often the members of a team are listed anew because Teams no longer knows a continuation token.
MAX_RESTARTS = 3
#: Longest user id of a guest that is kept.
MAX_USER_ID_CHARS = 500
#: Longest continuation token, in characters: it is stored in a row, and sent in a URL. A page with a longer one counts
#: as one that cannot be read.
MAX_TOKEN_CHARS = 8000
#: Delay before Teams is asked again for the members of a team, unless its answer names one.
RETRY_DELAY_SECONDS = 5.0
#: The prefixes of a recipient that cannot be reached, and of the user ids of guests.
_UNREACHABLE, _USER_ID = "t:", "29:"

log = logging.getLogger(__name__)

_AUDIENCES = (TeamRecipient, TopicRecipient, GroupRecipient, AllRecipient)


@dataclass(frozen=True, slots=True)
class AudiencePage:
    """One page: each recipient with its index in the audience, and the cursor of the next page, "" after the last.

    `empty` has the index of an audience that turned out to have nobody. `left_out` is the number of accounts on the
    page that get no delivery, by reason.
    """

    recipients: Mapping[str, int]
    cursor: str
    empty: Sequence[int] = ()
    left_out: Mapping[Reason, int] = field(default_factory=dict)


#: Some recipients of one audience, where its next page begins ("" after the last), and `AudiencePage.left_out`.
_Listed = tuple[Sequence[str], str, Mapping[Reason, int]]


async def list_page(
    services: Services, tenant: str, audience: Sequence[Recipient], cursor: str, limit: int
) -> AudiencePage:
    """Return about `limit` recipients from `cursor` on ("" for the first page). A page may be empty before the last.

    Single recipients come before audiences: teams, topics, groups and `all`. The cursor has the position in the
    audience, where the next page of one of these begins, and whether that had anybody so far. Raises `RetryLater` if
    Teams or Graph does not answer a request.
    """
    audiences = [(index, entry) for index, entry in enumerate(audience) if isinstance(entry, _AUDIENCES)]
    singles = [(index, entry) for index, entry in enumerate(audience) if not isinstance(entry, _AUDIENCES)]
    left_out: Mapping[Reason, int] = {}
    position, after, *had = orjson.loads(cursor) if cursor else (0, "")
    had_any = bool(had[0] if had else after)  # the cursors of earlier versions do not say so
    empty: Sequence[int] = ()
    if position < len(singles):
        batch = singles[position : position + limit]
        people = await _find_people(services, tenant, [entry for _, entry in batch])
        found: Sequence[str] = await gather_limited(
            batch, lambda pair: _resolve_single(services, tenant, pair[1], people)
        )
        indexes = [index for index, _ in batch]
        position, after, had_any = position + len(batch), "", False
    else:
        index, entry = audiences[position - len(singles)]
        found, after, left_out = await _list_audience(services, tenant, entry, after, limit)
        had_any = bool(had_any or found)
        if not after:
            empty, had_any = () if had_any else [index], False
        indexes = [index] * len(found)
        position += not after
    recipients: dict[str, int] = {}
    for recipient, index in zip(found, indexes, strict=True):
        recipients.setdefault(recipient, index)
    next_cursor = orjson.dumps([position, after, had_any]).decode() if position < len(audience) else ""
    return AudiencePage(recipients, next_cursor, empty, left_out)


def is_unlisted_team(entry: Recipient, recipient: str) -> bool:
    """Return whether a recipient stands for all members of a team, because Teams does not list them."""
    is_guest = recipient.startswith(_UNREACHABLE + _USER_ID)
    return isinstance(entry, TeamRecipient) and recipient.startswith(_UNREACHABLE) and not is_guest


def explain_empty(audience: Recipient) -> str:
    """Return why a team, topic, group or `all` has nobody, for a log line."""
    if isinstance(audience, TopicRecipient):
        return "nobody has subscribed to this topic"
    if isinstance(audience, TeamRecipient):
        return "Teams lists no member of this team"
    if isinstance(audience, GroupRecipient):
        return "Graph lists no enabled account in this group"
    if isinstance(audience, AllRecipient) and audience.of == "tenant":
        return "Graph lists no enabled member account"
    return "nobody in the tenant has a personal chat with the bot"


async def _list_audience(services: Services, tenant: str, audience: Recipient, after: str, limit: int) -> _Listed:
    """Return recipients of one audience from `after` on; "" stands for the start."""
    if isinstance(audience, TeamRecipient):
        return *await _list_members(services, tenant, audience.team, after, limit), {}
    if isinstance(audience, TopicRecipient):
        return *await services.topics.subscribers(tenant, audience.topic, after, limit), {}
    if isinstance(audience, GroupRecipient):
        return await _list_by_graph(
            audience.group, after, lambda cursor: services.graph.group_members(tenant, audience.group, cursor)
        )
    assert isinstance(audience, AllRecipient)
    if audience.of == "tenant":
        return await _list_by_graph("", after, lambda cursor: services.graph.organisation_members(tenant, cursor))
    probe_before = services.real_time() - services.settings.probe_after
    found: list[str] = []
    while True:  # one call reads one shard
        ids, after = await services.conversations.list_people(tenant, after, limit - len(found), probe_before)
        found += [f"u:{identifier}" for identifier in ids]
        if not after or len(found) == limit:
            return found, after, {}


async def _list_by_graph(identifier: str, after: str, list_page: Callable[[str], Awaitable[Page | Outcome]]) -> _Listed:
    """Return a page of people as Graph lists them; if it refuses, `t:`, the reason and the id."""
    restarts, cursor = orjson.loads(after) if after else (0, "")
    page = await list_page(cursor)
    if isinstance(page, Outcome):
        if page.reason is Reason.LIST_EXPIRED and restarts < MAX_RESTARTS:  # listing anew adds nobody twice
            return [], orjson.dumps([restarts + 1, ""]).decode(), {}
        _require_answer(page)
        log.warning("Graph refused to list people (%s); nobody of this audience is notified", page.reason)
        return [unreachable(page.reason, identifier)], "", {}
    people = [f"u:{person.id}" for person in page.people]
    return people, orjson.dumps([restarts, page.cursor]).decode() if page.cursor else "", page.left_out


def unreachable(reason: Reason | None, identifier: str) -> str:
    """Return the recipient that stands for one that cannot be reached for this reason."""
    return f"{_UNREACHABLE}{reason or Reason.NOT_READABLE}:{identifier}"


async def _list_members(
    services: Services, tenant: str, team_id: str, after: str, limit: int
) -> tuple[Sequence[str], str]:
    """Return members of a team or group chat as Teams lists them; if Teams refuses, `t:` and its id."""
    now = services.real_time()
    team = await _find_team_or_chat(services, tenant, team_id)
    is_marked = team is not None and team.status is not ReferenceStatus.ACTIVE
    if team is None or (is_marked and not is_probed(team, now - services.settings.probe_after)):
        return [f"{_UNREACHABLE}{team.id if team else team_id}"], ""
    route = Route(tenant, team.service_url)
    size = min(max(limit, MIN_PAGE_MEMBERS), MAX_PAGE_MEMBERS)
    # The cursors of earlier versions are the continuation token alone.
    restarts, continuation = orjson.loads(after) if after.startswith("[") else (0, after)
    outcome = await services.connector.members(route, team.id, size, continuation)
    _require_answer(outcome)
    await store_host(services, tenant, team, outcome)
    if outcome.reason is Reason.BAD_REQUEST:  # it says nothing about the team
        if not continuation or restarts == MAX_RESTARTS:
            raise RetryLater(RETRY_DELAY_SECONDS)
        # The continuation token has expired. Listing anew adds nobody twice.
        return [], orjson.dumps([restarts + 1, ""]).decode()
    if outcome.verdict is not Verdict.DONE:
        log.warning("Teams refused to list the members of a team (%s); nobody in it is notified", outcome.reason)
        if outcome.reason is Reason.NOT_INSTALLED:
            await _mark(services, team, ReferenceStatus.UNINSTALLED, now)
        return [f"{_UNREACHABLE}{team.id}"], ""
    if is_marked:
        await _mark(services, team, ReferenceStatus.ACTIVE, now)
    found = [_member(each) for each in _require_list(outcome, "members")]
    token = str(outcome.body.get("continuationToken") or "")
    if len(token) > MAX_TOKEN_CHARS:
        raise RetryLater(RETRY_DELAY_SECONDS)
    return [each for each in found if each], orjson.dumps([restarts, token]).decode() if token else ""


async def _mark(services: Services, team: ConversationReference, status: ReferenceStatus, at: datetime) -> None:
    """Store what an answer says about the team; the time is stored even if the mark was there before."""
    observed = {"status_at": at.isoformat()}
    await services.conversations.save(team.tenant, team.kind, team.id, observed, at=at, status=status)


def _require_answer(outcome: Outcome) -> None:
    """Raise `RetryLater` if Teams did not answer a request that reads."""
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN) or outcome.reason is Reason.SERVICE_ERROR:
        raise RetryLater(outcome.retry_after or RETRY_DELAY_SECONDS)


def _require_list(outcome: Outcome, name: str) -> Sequence[Mapping[str, object]]:
    """Return the objects in the list `name` of an answer; raise `RetryLater` if it has none, for Teams always lists."""
    listed = outcome.body.get(name)
    if not isinstance(listed, list):
        raise RetryLater(RETRY_DELAY_SECONDS)
    return [each for each in listed if isinstance(each, dict)]


def _member(member: Mapping[str, object]) -> str:
    """Return a member of a team as a recipient: `t:` and the user id for a guest without an object id, "" for a bot."""
    identifier, user_id = member.get("aadObjectId") or member.get("objectId"), str(member.get("id") or "")
    if isinstance(identifier, str) and OBJECT_ID.fullmatch(identifier):
        return f"u:{identifier.lower()}"
    return f"{_UNREACHABLE}{user_id[:MAX_USER_ID_CHARS]}" if user_id and not user_id.startswith("28:") else ""


async def _find_people(services: Services, tenant: str, recipients: Sequence[Recipient]) -> Mapping[str, str]:
    """Find the people that are named by an address, and return them as recipients. Raises `RetryLater`."""
    addresses = [each.user for each in recipients if isinstance(each, UserRecipient) and "@" in each.user]
    found = await services.graph.people(tenant, addresses) if addresses else {}
    people = {}
    for address, person in found.items():
        if isinstance(person, Outcome):
            _require_answer(person)
            people[address] = unreachable(person.reason, address)
        else:
            people[address] = f"u:{person.id}" if person.enabled else unreachable(Reason.ACCOUNT_DISABLED, address)
    return people


async def _resolve_single(services: Services, tenant: str, recipient: Recipient, people: Mapping[str, str]) -> str:
    if isinstance(recipient, UserRecipient):
        return people.get(recipient.user) or f"u:{recipient.user}"
    if isinstance(recipient, ChannelRecipient):
        return await resolve_channel(services, tenant, recipient.channel)
    assert isinstance(recipient, ConversationRecipient)
    reference = await services.conversations.get(tenant, ReferenceKind.CONVERSATION, channel_of(recipient.conversation))
    if reference and reference.user:
        return f"u:{reference.user}"
    return f"c:{recipient.conversation}"


async def resolve_channel(services: Services, tenant: str, channel: ChannelId) -> str:
    """Return the recipient of a channel, or `t:` and its id if it is not one of that team.

    A channel is known by its events, or else by the team's list of channels: the bot's token must not post to an id
    that only an upstream system has named. Raises `RetryLater` if Teams does not answer.
    """
    conversations, identifier = services.conversations, channel.channel_id
    team = await _find_team(services, tenant, channel.team_id)
    known = await conversations.get(tenant, ReferenceKind.CONVERSATION, identifier)
    if team is None or (known and team.id == known.team):
        return f"c:{identifier}"
    if known and (known.user or known.team):
        return f"{_UNREACHABLE}{identifier}"
    outcome = await services.connector.channels(Route(tenant, team.service_url), team.id)
    await store_host(services, tenant, team, outcome)
    # Other answers would keep the whole page waiting for one channel.
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN) and outcome.reason is not Reason.NOT_PERMITTED:
        raise RetryLater(outcome.retry_after or RETRY_DELAY_SECONDS)
    listed = _require_list(outcome, "conversations") if outcome.verdict is Verdict.DONE else []
    if identifier not in [team.id, *(each.get("id") for each in listed)]:
        log.warning("A channel was refused: it is not in the list of its team's channels, and no event came from it")
        return f"{_UNREACHABLE}{identifier}"
    service_url = outcome.service_url or team.service_url
    observed = {"conversation_type": "channel", "team": team.id, "service_url": service_url}
    now = services.real_time()
    await conversations.save(tenant, ReferenceKind.CONVERSATION, identifier, observed, at=now)
    return f"c:{identifier}"


async def _find_team(services: Services, tenant: str, identifier: str) -> ConversationReference | None:
    """Return the reference of the team with this thread id or Entra group id, or None."""
    team = await services.conversations.get(tenant, ReferenceKind.TEAM, identifier)
    if team and team.team:  # the row of a group id holds only the team's thread id
        team = await services.conversations.get(tenant, ReferenceKind.TEAM, team.team)
    return team


async def _find_team_or_chat(services: Services, tenant: str, identifier: str) -> ConversationReference | None:
    team = await _find_team(services, tenant, identifier)
    return team or await services.conversations.get(tenant, ReferenceKind.CONVERSATION, identifier)
