"""Client of Microsoft Graph, which finds people, and installs the app for them.

Like the connector, it raises nothing for what Graph answers: each operation returns its typed answer, or the `Outcome`
of a failure, of which one with the verdict `RETRY` or `UNKNOWN` may be asked for again. Tokens, names and addresses of
people are not logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import orjson
from yarl import URL

from shared.loopback import is_loopback
from shared.states import Reason
from shared.storage.rate_lanes import LaneKind, TenantLaneKind
from shared.teams import graph_answers as answers
from shared.teams.connector import THROTTLED_PAUSE_SECONDS, TOKEN_PAUSE_SECONDS
from shared.teams.exchange import exchange
from shared.teams.graph_answers import Account, Installed, MailboxSettings, Operation, Page
from shared.teams.outcome import Outcome, Verdict, json_object
from shared.teams.rate_limiter import RateLimiter, RetryLater
from shared.teams.tokens import NoToken, Tokens
from shared.time.longer_waits import LongerWaits

if TYPE_CHECKING:
    from shared.settings import Settings

#: How long the catalogue's id of the app is known, and how long it is known that the catalogue does not have the app.
CATALOGUE_SECONDS, CATALOGUE_MISS_SECONDS = 3600.0, 60.0
#: After an answer that a permission is missing, Graph is not asked for what needs it for this time.
PERMISSION_MISSING_SECONDS = 60.0
#: Longest name of a person, in characters: a mail address has at most 320.
MAX_NAME_CHARS = 320

_SELECTED = "id,accountEnabled,userType"
_LANES = {
    answers.CHECK_PERSON: TenantLaneKind.GRAPH_CHECK,
    answers.CHECK_TEAM: TenantLaneKind.GRAPH_CHECK,
    answers.INSTALL_FOR_PERSON: TenantLaneKind.GRAPH_INSTALL,
    answers.INSTALL_FOR_TEAM: TenantLaneKind.GRAPH_INSTALL,
}
#: Lists of a group's members by a cast, and on further pages, need it.
_GROUP_HEADERS = {"ConsistencyLevel": "eventual"}
#: What is refused for some time in this process: all requests of a tenant, or those that have no rate lane.
_ANY, _READS = "any", "reads"

#: What is known of people in one expansion, by name in lower case; its owner passes it to each call.
KnownPeople = dict[str, Account | Outcome]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A request; `path` is relative to the version, and `team` the team that it is about."""

    operation: Operation
    path: str = ""
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    cursor: str = ""
    team: str | None = None


class Graph:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: Settings,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        rate_limiters: Mapping[TenantLaneKind, RateLimiter],
    ) -> None:
        """`rate_limiters` has those of `GRAPH_INSTALL` and `GRAPH_CHECK`; without one, its requests do not wait."""
        self._session, self._settings, self._clock, self._monotonic = session, settings, clock, monotonic
        self._rate_limiters = rate_limiters
        self._root = f"{settings.graph_url}/v1.0"
        self._tokens: dict[str, Tokens] = {}
        self._token_waits = LongerWaits(*TOKEN_PAUSE_SECONDS, monotonic)
        #: Until when, by tenant and a permission, `_ANY` or `_READS`, no request is sent, and the outcome instead.
        self._refusals: dict[tuple[str, str], tuple[float, Outcome]] = {}
        self._logged: set[tuple[str, str]] = set()
        #: When each tenant's catalogue was asked for the app, and what it answered.
        self._catalogue: dict[str, tuple[float, str | Outcome]] = {}
        self._catalogue_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def person(self, tenant: str, name: str, known: KnownPeople | None = None) -> Account | Outcome:
        """Find a person by object id, UPN or mail address, as `people` does."""
        return (await self.people(tenant, [name], known))[name]

    async def people(
        self, tenant: str, names: Iterable[str], known: KnownPeople | None = None
    ) -> dict[str, Account | Outcome]:
        """Find people by object id, UPN or mail address; return what was found for each name.

        Names in `known` are not asked for, and those that were found, or are unknown, are added to it.
        """
        known = {} if known is None else known
        names, found = list(names), KnownPeople()
        todo = [key for key in dict.fromkeys(_key(name) for name in names) if key not in known]
        for start in range(0, len(todo), answers.MAX_BATCH):
            found |= await self._find(tenant, todo[start : start + answers.MAX_BATCH])
        known.update({key: each for key, each in found.items() if isinstance(each, Account) or _is_unknown(each)})
        return {name: known[_key(name)] if _key(name) in known else found[_key(name)] for name in names}

    async def group_members(self, tenant: str, group: str, cursor: str = "") -> Page | Outcome:
        """Read a page of all members of a group (by object id) and of the groups in it, with guests.

        `cursor` is that of the page before. If the outcome's reason is `LIST_EXPIRED`, list again without one.
        """
        path = f"/groups/{_segment(group)}/transitiveMembers"
        query = {"$select": _SELECTED, "$top": str(answers.PAGE_SIZE), "$count": "true"}
        request = _Request(operation=answers.LIST_GROUP, headers=_GROUP_HEADERS, cursor=cursor)
        cast = replace(request, path=_path(f"{path}/microsoft.graph.user", query))
        outcome = await self._ask(tenant, cast)
        if answers.is_unsupported_query(outcome) and not cursor:
            outcome = await self._ask(tenant, replace(request, path=_path(path, query)))
        return self._page(outcome, cursor, with_guests=True)

    async def organisation_members(self, tenant: str, cursor: str = "") -> Page | Outcome:
        """Read a page of all accounts of the organisation, without guests; `cursor` as in `group_members`."""
        query = {"$select": _SELECTED, "$top": str(answers.PAGE_SIZE)}
        request = _Request(operation=answers.LIST_ORGANISATION, path=_path("/users", query), cursor=cursor)
        return self._page(await self._ask(tenant, request), cursor, with_guests=False)

    async def catalogue_id(self, tenant: str, max_age: float = CATALOGUE_SECONDS) -> str | Outcome:
        """Return the id of the app in the tenant's catalogue, as it was at most `max_age` seconds ago."""
        app = self._settings.teams_app_id
        if not app:
            return Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE)
        async with self._catalogue_locks[tenant]:
            if tenant in self._catalogue:
                asked_at, found = self._catalogue[tenant]
                age_limit = max_age if isinstance(found, str) else min(max_age, CATALOGUE_MISS_SECONDS)
                if self._monotonic() - asked_at < age_limit:
                    return found
            query = {"$filter": f"externalId eq '{app}'", "$select": "id,externalId,distributionMethod"}
            outcome = await self._ask(
                tenant, _Request(operation=answers.FIND_APP, path=_path("/appCatalogs/teamsApps", query))
            )
            found = answers.read_catalogue_id(outcome)
            if isinstance(found, str):
                self._catalogue[tenant] = self._monotonic(), found
                self._logged.discard((tenant, Reason.APP_NOT_IN_CATALOGUE))
            elif found.reason is Reason.APP_NOT_IN_CATALOGUE:
                self._catalogue[tenant] = self._monotonic(), found
                self._log_once(tenant, found.reason, f"publish the app with the id {app} (HERALD_TEAMS_APP_ID) there")
            return found

    async def is_installed_for_person(self, tenant: str, person: str) -> bool | Outcome:
        """Return whether a person (by object id or UPN) has the app."""
        return await self._is_installed(tenant, answers.CHECK_PERSON, f"{_user(person)}/teamwork", None)

    async def is_installed_for_team(self, tenant: str, team: str) -> bool | Outcome:
        """Return whether a team (by the object id of its group) has the app."""
        return await self._is_installed(tenant, answers.CHECK_TEAM, f"/teams/{_segment(team)}", team)

    async def install_for_person(self, tenant: str, person: str) -> Installed | Outcome:
        """Install the app for a person (by object id or UPN)."""
        return await self._install(tenant, answers.INSTALL_FOR_PERSON, f"{_user(person)}/teamwork", None)

    async def install_for_team(self, tenant: str, team: str) -> Installed | Outcome:
        """Install the app for a team (by the object id of its group)."""
        return await self._install(tenant, answers.INSTALL_FOR_TEAM, f"/teams/{_segment(team)}", team)

    async def mailbox_settings(self, tenant: str, person: str) -> MailboxSettings | Outcome:
        """Read the time zone and locale of a person's mailbox (by object id or UPN)."""
        path = _path(f"{_user(person)}/mailboxSettings", {"$select": "timeZone,language"})
        return answers.read_mailbox(await self._ask(tenant, _Request(operation=answers.READ_MAILBOX, path=path)))

    async def _find(self, tenant: str, names: Sequence[str]) -> KnownPeople:
        found: KnownPeople = {name: answers.unknown_person() for name in names if not _is_name(name)}
        names = [name for name in names if name not in found]
        found |= await self._find_by(tenant, {name: _path(_user(name), {"$select": _SELECTED}) for name in names})
        by_mail = [name for name in names if "@" in name and _is_unknown(found[name])]
        return found | await self._find_by(tenant, {name: _mail_path(name) for name in by_mail})

    async def _find_by(self, tenant: str, paths: Mapping[str, str]) -> KnownPeople:
        operation = answers.FIND_PERSON
        if len(paths) < 2:
            return {
                name: answers.read_found_person(await self._ask(tenant, _Request(operation=operation, path=path)))
                for name, path in paths.items()
            }
        body = answers.encode_batch(list(paths.values()))
        batch = await self._ask(tenant, _Request(operation=operation, method="POST", path="/$batch", body=body))
        if batch.verdict is not Verdict.DONE:
            return dict.fromkeys(paths, batch)
        parts = answers.read_batch(operation, batch.body, len(paths), self._clock())
        settled = [self._note(tenant, operation, part) for part in parts]
        return {name: answers.read_found_person(part) for name, part in zip(paths, settled, strict=True)}

    def _page(self, outcome: Outcome, cursor: str, *, with_guests: bool) -> Page | Outcome:
        if outcome.verdict is not Verdict.DONE:
            return outcome
        return answers.read_page(outcome.body, self._settings.graph_url, cursor=cursor, with_guests=with_guests)

    async def _is_installed(self, tenant: str, operation: Operation, path: str, team: str | None) -> bool | Outcome:
        app = self._settings.teams_app_id
        if not app:
            return Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE)
        query = {"$expand": "teamsApp", "$filter": f"teamsApp/externalId eq '{app}'"}
        request = _Request(operation=operation, path=_path(f"{path}/installedApps", query), team=team)
        return answers.read_is_installed(await self._ask(tenant, request))

    async def _install(self, tenant: str, operation: Operation, path: str, team: str | None) -> Installed | Outcome:
        async def install(app: str) -> Outcome:
            body = orjson.dumps({"teamsApp@odata.bind": f"{self._root}/appCatalogs/teamsApps/{app}"})
            request = _Request(operation=operation, method="POST", path=f"{path}/installedApps", body=body, team=team)
            return await self._ask(tenant, request)

        app = await self.catalogue_id(tenant)
        if isinstance(app, Outcome):
            return app
        outcome = await install(app)
        if outcome.reason is operation.not_found:  # or the app is no longer in the catalogue, or is there anew
            current = await self.catalogue_id(tenant, CATALOGUE_MISS_SECONDS)
            if isinstance(current, Outcome):
                return current
            if current != app:
                outcome = await install(current)
        if outcome.verdict is not Verdict.DONE:
            return outcome
        return Installed(already=outcome is answers.ALREADY_INSTALLED)

    async def _ask(self, tenant: str, request: _Request) -> Outcome:
        """Send a request, again with another token if it was refused, and return its outcome."""
        if refused := self._refused(tenant, request):
            return refused
        outcome, token = await self._attempt(tenant, request, "")
        if outcome.reason is Reason.UNAUTHORIZED and token:
            outcome, _ = await self._attempt(tenant, request, token)
        outcome = self._note(tenant, request.operation, outcome)
        lane = self._lane(request.operation)
        if lane and outcome.reason is Reason.THROTTLED and outcome.retry_after:
            await lane.pause_tenant(tenant, outcome.retry_after)
        return outcome

    def _refused(self, tenant: str, request: _Request) -> Outcome | None:
        """Return the outcome of a request that must not be sent, or not yet."""
        settings = self._settings
        if not settings.allows_tenant(tenant):
            return Outcome(Verdict.FAILED, Reason.NOT_PERMITTED)
        if not settings.app_id and not is_loopback(urlsplit(settings.graph_url).hostname or ""):
            return Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
        # The token of a managed identity is one of its own tenant, and would list the people of that one.
        if settings.effective_app_type == "UserAssignedMSI" and tenant.lower() != settings.app_tenant.lower():
            self._log_once(tenant, "identity", "a bot with UserAssignedMSI can ask Graph about its home tenant only")
            return Outcome(Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING)
        if request.cursor and not answers.is_cursor(request.cursor, settings.graph_url):
            return Outcome(Verdict.RETRY, Reason.LIST_EXPIRED)
        for subject in (_ANY, request.operation.permission, "" if request.operation in _LANES else _READS):
            until, outcome = self._refusals.get((tenant, subject), (0.0, None))
            if outcome and (wait := until - self._monotonic()) > 0:
                return replace(outcome, retry_after=wait if outcome.verdict is Verdict.RETRY else None)
        return None

    async def _attempt(self, tenant: str, request: _Request, refused_token: str) -> tuple[Outcome, str]:
        """Send the request once; return the outcome, and the token that was used."""
        lane = self._lane(request.operation)
        try:
            token = await self._tokens_of(tenant).get(refused=refused_token)
            if lane:
                await lane.wait_for_slot(tenant, request.team, kind=LaneKind.GRAPH_TEAM)
        except NoToken as error:
            log.error("The token service returned no token for Graph and tenant %s (%s)", tenant, error)
            return Outcome(Verdict.RETRY, Reason.NO_TOKEN), ""
        except RetryLater as later:
            return Outcome(Verdict.RETRY, Reason.PACED, later.seconds), ""
        url = URL(request.cursor or self._root + request.path, encoded=True)
        answer = await exchange(self._session, request.method, url, request.body, token, request.headers)
        if isinstance(answer, Reason):
            may_be_done = request.operation.installs and answer is Reason.NO_ANSWER
            return Outcome(Verdict.UNKNOWN if may_be_done else Verdict.RETRY, answer), token
        outcome = answers.classify(
            request.operation,
            answer.status,
            answer.headers,
            json_object(answer.body),
            self._clock(),
            has_cursor=bool(request.cursor),
        )
        return outcome, token

    def _lane(self, operation: Operation) -> RateLimiter | None:
        kind = _LANES.get(operation)
        return self._rate_limiters.get(kind) if kind else None

    def _tokens_of(self, tenant: str) -> Tokens:
        if tenant not in self._tokens:
            scope = f"{self._settings.graph_url}/.default"
            authority = self._settings.authority_of(tenant)
            self._tokens[tenant] = Tokens(self._settings, self._monotonic, scope, authority)
        return self._tokens[tenant]

    def _note(self, tenant: str, operation: Operation, outcome: Outcome) -> Outcome:
        """Remember and log what the outcome says about further requests; return it with the time to wait."""
        permission = operation.permission
        if outcome.reason in (Reason.UNAUTHORIZED, Reason.NO_TOKEN):
            self._log_once(tenant, outcome.reason, "check MicrosoftAppId, its credential, and its permissions there")
            outcome = replace(outcome, retry_after=self._token_waits.failed(tenant))
            self._refuse(tenant, _ANY, outcome)
        elif outcome.verdict is Verdict.DONE:
            self._token_waits.succeeded(tenant)
            self._logged -= {(tenant, each) for each in (Reason.UNAUTHORIZED, Reason.NO_TOKEN, permission)}
        elif outcome.reason is Reason.THROTTLED:
            if outcome.retry_after is None:
                outcome = replace(outcome, retry_after=random.uniform(*THROTTLED_PAUSE_SECONDS))  # noqa: S311
            if operation not in _LANES:
                self._refuse(tenant, _READS, outcome)
        elif outcome.reason is Reason.GRAPH_PERMISSION_MISSING:
            self._log_once(tenant, permission, f"grant the application permission {permission} to the app in Entra ID")
            if operation is not answers.READ_MAILBOX:  # which may be granted for some mailboxes
                self._refuse(tenant, permission, replace(outcome, retry_after=PERMISSION_MISSING_SECONDS))
        elif outcome.reason is Reason.BLOCKED_BY_POLICY:
            self._log_once(tenant, outcome.reason, "allow the app in the policies of the Teams admin center")
        return outcome

    def _refuse(self, tenant: str, subject: str, outcome: Outcome) -> None:
        self._refusals[tenant, subject] = self._monotonic() + (outcome.retry_after or 0.0), outcome

    def _log_once(self, tenant: str, subject: str, advice: str) -> None:
        """Log what to do, once until it was done."""
        if (tenant, subject) not in self._logged:
            self._logged.add((tenant, subject))
            log.error(
                "Graph refuses requests for tenant %s: %s (docs/deploy.md, Permissions of Microsoft Graph)",
                tenant,
                advice,
            )


def _is_unknown(found: Account | Outcome) -> bool:
    return isinstance(found, Outcome) and found.reason is Reason.UNKNOWN_PERSON


def _key(name: str) -> str:
    return name.strip().lower()


def _is_name(key: str) -> bool:
    """Return whether Graph can know somebody of this name: an object id, or one with an @."""
    return len(key) <= MAX_NAME_CHARS and key.isprintable() and ("@" in key or answers.is_object_id(key))


def _user(name: str) -> str:
    """Return the path of a user; a UPN that begins with `$` would be an option of the query."""
    return f"/users('{_segment(_literal(name))}')" if name.startswith("$") else f"/users/{_segment(name)}"


def _mail_path(name: str) -> str:
    return _path("/users", {"$filter": f"mail eq '{_literal(name)}'", "$select": _SELECTED})


def _literal(text: str) -> str:
    return text.replace("'", "''")


def _segment(text: str) -> str:
    return quote(text, safe="")


def _path(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query, quote_via=quote, safe='$,/')}"
