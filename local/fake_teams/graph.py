"""Microsoft Graph v1.0 as far as an app needs it to find people and to install itself for them."""

from __future__ import annotations

import asyncio
import base64
import math
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, unquote

import orjson
from aiohttp import web

from local.fake_teams import odata
from local.fake_teams.activity_sender import ActivitySender
from local.fake_teams.api import TeamsEvent
from local.fake_teams.connector import parse_object
from local.fake_teams.errors import ConnectorError, GraphError, json_response
from local.fake_teams.events import apply_event
from local.fake_teams.fault_injector import apply_fault
from local.fake_teams.state import FakeState
from local.fake_teams.world import Device, Group, Person, Team

#: The most requests of a batch ("Combine multiple HTTP requests using JSON batching").
MAX_BATCH_SIZE = 20

GROUP_PERMISSION = "GroupMember.Read.All"
CATALOGUE_PERMISSION = "AppCatalog.Read.All"
MAILBOX_PERMISSION = "MailboxSettings.Read"
INSTALL_PERMISSIONS = {
    "installedApps": "TeamsAppInstallation.ReadWriteSelfForUser.All",
    "installApp": "TeamsAppInstallation.ReadWriteSelfForUser.All",
    "teamInstalledApps": "TeamsAppInstallation.ReadWriteSelfForTeam.All",
    "installAppInTeam": "TeamsAppInstallation.ReadWriteSelfForTeam.All",
}

USER_PROPERTIES: dict[str, Callable[[Person], Any]] = {
    "id": lambda person: person.object_id,
    "displayName": lambda person: person.name,
    "givenName": lambda _: "Person",
    "surname": lambda person: str(person.number),
    "mail": lambda person: person.mail,
    "userPrincipalName": lambda person: person.user_principal_name,
    "accountEnabled": lambda person: person.enabled,
    "userType": lambda person: "Guest" if person.guest else "Member",
    "preferredLanguage": lambda person: person.locale,
    "businessPhones": lambda _: [],
    "jobTitle": lambda _: None,
    "mobilePhone": lambda _: None,
    "officeLocation": lambda _: None,
}
#: What Graph returns without $select ("user resource type"), and what `User.ReadBasic.All` can read.
DEFAULT_USER_PROPERTIES = (
    "businessPhones", "displayName", "givenName", "jobTitle", "mail", "mobilePhone", "officeLocation",
    "preferredLanguage", "surname", "userPrincipalName", "id",
)  # fmt: skip
BASIC_USER_PROPERTIES = frozenset(("id", "displayName", "givenName", "surname", "mail", "userPrincipalName"))
#: By these properties the fake finds a person without a search.
ADDRESS_PROPERTIES = frozenset(("id", "userPrincipalName", "mail"))
GROUP_PROPERTIES: dict[str, Callable[[Group], Any]] = {
    "id": lambda group: group.group_id,
    "displayName": lambda group: group.name,
    "mail": lambda _: None,
    "groupTypes": lambda group: ["Unified"] if group.kind == "unified" else [],
    "securityEnabled": lambda group: group.kind == "security",
}
DEFAULT_GROUP_PROPERTIES = ("displayName", "groupTypes", "mail", "securityEnabled", "id")
#: The members that a group can hold ("Groups: group membership"), by the name of the cast.
SECURITY_MEMBER_TYPES = frozenset(("user", "group", "device", "servicePrincipal", "orgContact"))
UNIFIED_MEMBER_TYPES = frozenset(("user",))
_MEMBER_CLASSES: dict[str, type] = {"user": Person, "group": Group, "device": Device}

_APP_BINDING = re.compile(r"/appCatalogs/teamsApps(?:/|\(')([^/?')]+)(?:'\))?$")


class GraphServer(Protocol):
    """The parts of the server that Graph uses."""

    url: str

    @property
    def service_url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class GraphCall:
    """A parsed method and path: `target` is a user, group or team, `cast` the type of its members."""

    operation: str
    target: str = ""
    cast: str = ""


@dataclass(frozen=True, slots=True)
class GraphRequest:
    """A request, or a part of a batch; `path` is escaped and below `/v1.0/`."""

    method: str
    path: str
    query: dict[str, str]
    is_eventual: bool
    body: bytes

    @property
    def is_advanced(self) -> bool:
        """Return whether it has what advanced queries need ("Advanced query capabilities on directory objects")."""
        return self.is_eventual and self.query.get("$count") == "true"


def parse_call(method: str, path: str) -> GraphCall:
    """Parse a method and an escaped path below `/v1.0/`; raises `GraphError` 400."""
    match method, [unquote(segment) for segment in path.split("/")]:
        case "GET", ["users"]:
            return GraphCall("users")
        case "GET", ["users", target]:
            return GraphCall("user", target)
        case "GET", ["users", target, "mailboxSettings"]:
            return GraphCall("mailboxSettings", target)
        case "GET", ["users", target, "teamwork", "installedApps"]:
            return GraphCall("installedApps", target)
        case "POST", ["users", target, "teamwork", "installedApps"]:
            return GraphCall("installApp", target)
        case "GET", ["teams", target, "installedApps"]:
            return GraphCall("teamInstalledApps", target)
        case "POST", ["teams", target, "installedApps"]:
            return GraphCall("installAppInTeam", target)
        case "GET", ["groups", target, "transitiveMembers"]:
            return GraphCall("groupMembers", target)
        case "GET", ["groups", target, "transitiveMembers", cast] if cast.startswith("microsoft.graph."):
            return GraphCall("groupMembers", target, cast.removeprefix("microsoft.graph."))
        case "GET", ["appCatalogs", "teamsApps"]:
            return GraphCall("catalogue")
        case "POST", ["$batch"]:
            return GraphCall("batch")
    raise GraphError(400, message=f"Resource not found for the segment '{unquote(path.rpartition('/')[2])}'.")


def catalogue_id(tenant: str) -> str:
    """Return the id of the app in the catalogue of a tenant; its external id is that of its manifest, the app id."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"catalogue/{tenant}"))


class FakeGraph:
    """Serves the requests below `/v1.0/`."""

    def __init__(self, state: FakeState, sender: ActivitySender, server: GraphServer) -> None:
        self._state = state
        self._world = state.world
        self._sender = sender
        self._server = server

    async def close(self) -> None:
        """End the installations whose activities are still to be posted."""
        self._state.cancel_tasks()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.Response:
        """Respond to the request at an escaped path below `/v1.0/`."""
        self._state.traffic.count_connection(request, "graph")
        body = await request.read()
        return await self._answer(request, _build_request(request.method, path, query, request.headers, body))

    async def _answer(self, request: web.BaseRequest, asked: GraphRequest, tenant: str | None = None) -> web.Response:
        """Respond to a request, or to a part of a batch, which has the tenant of the batch."""
        operation = "unknown"
        try:
            call = parse_call(asked.method, asked.path)
            operation = call.operation
            if tenant is None:
                tenant = self._state.tokens.check_graph(request.headers.get("Authorization"), self._server.url)
            elif operation == "batch":
                raise GraphError(400, message="A batch cannot contain a batch.")
            response = await self._respond(request, asked, call, tenant)
        except GraphError as error:
            response = json_response(error.status, error.body)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = 'Bearer realm="", error="invalid_token"'
        self._state.traffic.count_response(operation, request, response)
        return response

    async def _respond(
        self, request: web.BaseRequest, asked: GraphRequest, call: GraphCall, tenant: str
    ) -> web.Response:
        behaviour = self._state.behaviour
        person = group = None
        if asked.path.startswith("users/"):
            found = self._world.find_user(tenant, call.target)
            person = call.target if found is None else found.object_id
        elif call.target:
            group = call.target.lower()
        now = time.monotonic()
        team = group if asked.path.startswith("teams/") else None
        wait = self._state.graph_limits.admit(call.operation, tenant, team, now)
        if wait > 0:
            response = json_response(429, GraphError(429, message="Too many requests.").body)
            if behaviour.graph_retry_after != "missing":
                seconds = str(math.ceil(wait)) if behaviour.graph_retry_after == "whole" else f"{wait:.3f}"
                response.headers["Retry-After"] = seconds
            return response
        fault = self._state.faults.match(
            call.operation, now, tenant=tenant, person=person, group=group, conversation=person or group or ""
        )
        if fault is not None and not fault.accept and (injected := await apply_fault(fault, request)) is not None:
            return injected
        if call.operation == "batch":
            response = await self._run_batch(request, asked, tenant)
        else:
            response = self._perform(asked, call, tenant)
            if behaviour.graph_latency:
                await asyncio.sleep(behaviour.graph_latency)
        if fault is not None and fault.accept and (injected := await apply_fault(fault, request)) is not None:
            return injected
        return response

    def _perform(self, asked: GraphRequest, call: GraphCall, tenant: str) -> web.Response:
        match call.operation:
            case "user":
                return self._get_user(asked, call, tenant)
            case "users":
                return self._list_users(asked, tenant)
            case "groupMembers":
                return self._list_members(asked, call, tenant)
            case "catalogue":
                return self._list_catalogue(asked, tenant)
            case "mailboxSettings":
                return self._get_mailbox_settings(asked, call, tenant)
            case "installedApps" | "teamInstalledApps":
                return self._list_installed(asked, tenant, self._find_owner(call, tenant))
            case _:
                return self._install(asked, tenant, self._find_owner(call, tenant))

    async def _run_batch(self, request: web.BaseRequest, asked: GraphRequest, tenant: str) -> web.Response:
        parts = _parse_batch(asked.body)
        responses = await asyncio.gather(*(self._answer(request, part, tenant) for _, part in parts))
        results = [_build_part(identity, response) for (identity, _), response in zip(parts, responses, strict=True)]
        # Graph returns the parts in any order.
        return json_response(200, {"responses": results[::-1]})

    def _has(self, tenant: str, permission: str) -> bool:
        return permission in self._state.graph_tenant(tenant).permissions

    def _require_for_teams(self, tenant: str, permission: str) -> None:
        if not self._has(tenant, permission):
            granted = ", ".join(sorted(self._state.graph_tenant(tenant).permissions))
            raise GraphError(
                403,
                message=f"Missing role permissions on the request. API requires one of '{permission}'."
                f" Roles on the request '{granted}'.",
            )

    def _readable_properties(self, tenant: str) -> frozenset[str]:
        """Return what the app can read of users; without a permission, it is only the id, of members of a group."""
        if self._has(tenant, "User.Read.All"):
            return frozenset(USER_PROPERTIES)
        return BASIC_USER_PROPERTIES if self._has(tenant, "User.ReadBasic.All") else frozenset(("id",))

    def _get_user(self, asked: GraphRequest, call: GraphCall, tenant: str) -> web.Response:
        readable = self._readable_properties(tenant)
        if "mail" not in readable:
            raise _denied()
        _check_options(asked.query, "$select")
        names = odata.parse_select(asked.query, USER_PROPERTIES, DEFAULT_USER_PROPERTIES)
        person = self._world.find_user(tenant, call.target)
        if person is None:
            raise _not_found(call.target)
        return json_response(
            200, {"@odata.context": self._context("users/$entity"), **_reader(names, readable)(person)}
        )

    def _list_users(self, asked: GraphRequest, tenant: str) -> web.Response:
        readable = self._readable_properties(tenant)
        if "mail" not in readable:
            raise _denied()
        _check_options(asked.query, "$select", "$filter", "$top", "$count", "$skiptoken")
        names = odata.parse_select(asked.query, USER_PROPERTIES, DEFAULT_USER_PROPERTIES)
        people: Sequence[Person] = self._world.list_people(tenant)
        matches = None
        if "$filter" in asked.query:
            wanted = _parse_user_filter(asked, readable)
            if wanted.is_advanced and not asked.is_advanced:
                raise _needs_consistency_level()
            matches = wanted.compile(USER_PROPERTIES)
            addresses = wanted.list_values(ADDRESS_PROPERTIES)
            if addresses is not None:
                named = (
                    self._world.find_user(tenant, each) or self._world.find_by_number(tenant, each)
                    for each in addresses
                )
                people = list({person.object_id: person for person in named if person is not None}.values())
        return self._page(asked, people, matches, _reader(names, readable), "users")

    def _list_members(self, asked: GraphRequest, call: GraphCall, tenant: str) -> web.Response:
        if not self._has(tenant, GROUP_PERMISSION):
            raise _denied()
        _check_options(asked.query, "$select", "$filter", "$top", "$count", "$skiptoken")
        try:
            group = self._world.groups.get(str(uuid.UUID(call.target)))
        except ValueError:
            raise GraphError(400, "Request_BadRequest", f"Invalid object identifier '{call.target}'.") from None
        if group is None or group.tenant != tenant:
            raise _not_found(call.target)
        is_security = isinstance(group, Group) and group.kind == "security"
        if call.cast and call.cast not in (SECURITY_MEMBER_TYPES if is_security else UNIFIED_MEMBER_TYPES):
            raise GraphError(400, "Request_UnsupportedQuery", f"The group has no members of the type '{call.cast}'.")
        if (call.cast or "$filter" in asked.query) and not asked.is_advanced:
            raise _needs_consistency_level()
        readable = self._readable_properties(tenant)
        known: odata.Getters = {**GROUP_PROPERTIES, **USER_PROPERTIES}
        names = odata.parse_select(asked.query, known, ()) or None
        member_class = _MEMBER_CLASSES.get(call.cast, type(None))
        matches = (lambda member: isinstance(member, member_class)) if call.cast else None
        if "$filter" in asked.query:
            if call.cast != "user":
                raise GraphError(400, "Request_UnsupportedQuery", "The fake filters members that are cast to users.")
            is_wanted = _parse_user_filter(asked, readable).compile(USER_PROPERTIES)
            matches = lambda member: isinstance(member, Person) and is_wanted(member)  # noqa: E731
        members = group.transitive if isinstance(group, Group) else group.members
        build = _member_reader(names, readable, has_type=not call.cast or "mail" not in readable)
        return self._page(asked, members, matches, build, "directoryObjects")

    def _list_catalogue(self, asked: GraphRequest, tenant: str) -> web.Response:
        self._require_for_teams(tenant, CATALOGUE_PERMISSION)
        _check_options(asked.query, "$filter", "$select", "$expand")
        apps = [self._build_app(tenant)] if self._state.graph_tenant(tenant).catalogue else []
        if "$filter" in asked.query:
            getters = {name: _item_getter(name) for name in self._build_app(tenant)}
            matches = odata.parse_filter(asked.query["$filter"], getters).compile(getters)
            apps = list(filter(matches, apps))
        return json_response(200, {"@odata.context": self._context("appCatalogs/teamsApps"), "value": apps})

    def _build_app(self, tenant: str) -> dict[str, Any]:
        app = {"id": catalogue_id(tenant), "externalId": self._state.bot.app_id, "displayName": "Herald"}
        return {**app, "distributionMethod": "organization"}

    def _get_mailbox_settings(self, asked: GraphRequest, call: GraphCall, tenant: str) -> web.Response:
        if not self._has(tenant, MAILBOX_PERMISSION):
            raise GraphError(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
        person = self._world.find_user(tenant, call.target)
        if person is None:
            raise GraphError(404, "ErrorInvalidUser", f"The requested user '{call.target}' is invalid.")
        if person.mailbox_time_zone is None:
            text = "The mailbox is either inactive, soft-deleted, or is hosted on-premise."
            raise GraphError(404, "MailboxNotEnabledForRESTAPI", text)
        _check_options(asked.query, "$select")
        settings = {
            "timeZone": person.mailbox_time_zone,
            "language": {"locale": person.locale, "displayName": person.locale},
            "dateFormat": "yyyy-MM-dd",
            "timeFormat": "HH:mm",
        }
        getters = {name: _item_getter(name) for name in settings}
        names = odata.parse_select(asked.query, getters, tuple(settings))
        context = self._context(f"users('{call.target}')/mailboxSettings")
        return json_response(200, {"@odata.context": context, **{name: settings[name] for name in names}})

    def _find_owner(self, call: GraphCall, tenant: str) -> Person | Team:
        """Return the person or team; raises `GraphError` 403 without the permission, and 404."""
        self._require_for_teams(tenant, INSTALL_PERMISSIONS[call.operation])
        if call.operation in ("teamInstalledApps", "installAppInTeam"):
            team = self._world.groups.get(call.target.lower())
            if not isinstance(team, Team) or team.tenant != tenant:
                raise GraphError(404, message=f"No team found with Group Id {call.target}")
            return team
        person = self._world.find_user(tenant, call.target)
        if person is None:
            raise GraphError(404, message=f"Failed to find the user '{call.target}'.")
        if not person.uses_teams:
            raise GraphError(404, message=f"The user '{call.target}' is not provisioned for Teams.")
        return person

    def _list_installed(self, asked: GraphRequest, tenant: str, owner: Person | Team) -> web.Response:
        """List the app itself, if it is installed: permissions with `Self` show no other."""
        _check_options(asked.query, "$filter", "$expand")
        app = self._build_app(tenant)
        installed = []
        if owner.installed:
            target = owner.object_id if isinstance(owner, Person) else owner.group_id
            identity = base64.b64encode(f"{target}##{app['id']}".encode()).decode()
            expanded = [name.partition("(")[0].strip() for name in asked.query.get("$expand", "").split(",")]
            installed = [{"id": identity, **({"teamsApp": app} if "teamsApp" in expanded else {})}]
        if "$filter" in asked.query:
            getters = {f"teamsApp/{name}": _constant_getter(value) for name, value in app.items()}
            matches = odata.parse_filter(asked.query["$filter"], getters).compile(getters)
            installed = list(filter(matches, installed))
        context = self._context("teamsAppInstallations")
        return json_response(200, {"@odata.context": context, "@odata.count": len(installed), "value": installed})

    def _install(self, asked: GraphRequest, tenant: str, owner: Person | Team) -> web.Response:
        bound = _APP_BINDING.search(str(_parse_object(asked.body).get("teamsApp@odata.bind", "")))
        if bound is None:
            raise GraphError(400, message="Invalid 'teamsApp@odata.bind': bind an app of the catalogue.")
        if not self._state.graph_tenant(tenant).catalogue or bound[1].lower() != catalogue_id(tenant):
            raise GraphError(404, message=f"The app definition for app with id '{bound[1]}' was not found.")
        if isinstance(owner, Person) and owner.app_blocked:
            text = (
                f"App is blocked by app permission policy. TenantId: {tenant}, UserObjectId: {owner.object_id},"
                f" AppId: {bound[1]}, AppType: Private"
            )
            raise GraphError(403, message=text, inner_code="AccessDenied")
        if owner.installed:
            raise GraphError(409, message="The app is already installed in the specified scope.")
        owner.installed = True
        self._post_install_events(owner)
        return web.Response(status=201)

    def _post_install_events(self, owner: Person | Team) -> None:
        """Post the activities of an installation to the app, without waiting for it, as the behaviour says."""
        behaviour = self._state.behaviour
        # The fake posts in the name of the person, or of the first member; a team without members has nobody.
        if behaviour.endpoint is None or (isinstance(owner, Team) and not owner.members):
            return
        if isinstance(owner, Person):
            event = TeamsEvent(kind="install", person=owner.object_id)
        else:
            event = TeamsEvent(kind="install", team=owner.id)
        activities = apply_event(
            event, self._world, service_url=self._server.service_url, app_id=self._state.bot.app_id
        )
        later = behaviour.install_event_delay
        delays = {"now": [0.0], "late": [later], "twice": [0.0, later], "never": []}[behaviour.install_events]
        for delay in delays:
            self._state.run(self._post_later(activities, behaviour.endpoint, delay))

    async def _post_later(self, activities: list[dict[str, Any]], endpoint: str, delay: float) -> None:
        await asyncio.sleep(delay)
        for activity in activities:
            await self._sender.post(activity, endpoint, None)

    def _page(
        self,
        asked: GraphRequest,
        items: Sequence[Any],
        matches: Callable[[Any], bool] | None,
        build: Callable[[Any], dict[str, Any]],
        context: str,
    ) -> web.Response:
        """Return one page of the items that match; only the items of the page are copied.

        A page with a next link may be followed by an empty one, as in Graph.
        """
        top, generation = odata.parse_top(asked.query), self._state.page_generation
        same = {name: value for name, value in asked.query.items() if name != "$skiptoken"}
        query = f"{asked.path}?{sorted(same.items())}"
        token = asked.query.get("$skiptoken")
        start = position = 0 if token is None else odata.decode_skip_token(token, generation, query)
        page: list[dict[str, Any]] = []
        while position < len(items) and len(page) < top:
            item = items[position]
            position += 1
            if matches is None or matches(item):
                page.append(build(item))
        body: dict[str, Any] = {"@odata.context": self._context(context)}
        if asked.is_advanced and start == 0:
            body["@odata.count"] = len(items) if matches is None else sum(map(matches, items))
        if position < len(items):
            following = {**same, "$skiptoken": odata.encode_skip_token(position, generation, query)}
            options = "&".join(f"{name}={quote(value, safe=',')}" for name, value in following.items())
            body["@odata.nextLink"] = f"{self._server.url}/v1.0/{asked.path}?{options}"
        return json_response(200, {**body, "value": page})

    def _context(self, name: str) -> str:
        return f"{self._server.url}/v1.0/$metadata#{name}"


def _build_request(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> GraphRequest:
    level = next((value for name, value in headers.items() if name.lower() == "consistencylevel"), "")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return GraphRequest(method, path, options, level.lower() == "eventual", body)


def _parse_batch(body: bytes) -> list[tuple[str, GraphRequest]]:
    """Return the parts of a batch with their ids; raises `GraphError` 400."""
    requests = _parse_object(body).get("requests")
    if not isinstance(requests, list) or not requests:
        raise GraphError(400, message="Invalid batch payload format.")
    if len(requests) > MAX_BATCH_SIZE:
        text = f"Number of batch request steps exceeds the maximum value of {MAX_BATCH_SIZE}."
        raise GraphError(400, message=text)
    parts: list[tuple[str, GraphRequest]] = []
    for part in requests:
        if not isinstance(part, dict) or not all(isinstance(part.get(name), str) for name in ("id", "method", "url")):
            raise GraphError(400, message="A request of a batch needs id, method and url.")
        path, _, query = part["url"].removeprefix("/").partition("?")
        headers = {str(name): str(value) for name, value in (part.get("headers") or {}).items()}
        has_type = any(name.lower() == "content-type" for name in headers)
        if part.get("body") is not None and not has_type:
            raise GraphError(400, message="A request of a batch with a body needs the header Content-Type.")
        payload = b"" if part.get("body") is None else orjson.dumps(part["body"])
        parts.append((part["id"], _build_request(part["method"].upper(), path, query, headers, payload)))
    if len({identity for identity, _ in parts}) < len(parts):
        raise GraphError(400, message="The requests of a batch need different ids.")
    return parts


def _build_part(identity: str, response: web.Response) -> dict[str, Any]:
    """Return the response to a part of a batch."""
    body: Any = None
    if isinstance(response.body, bytes) and response.body:
        is_json = response.content_type == "application/json"
        body = orjson.Fragment(response.body) if is_json else base64.b64encode(response.body).decode()
    return {"id": identity, "status": response.status, "headers": dict(response.headers), "body": body}


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        return parse_object(body)
    except ConnectorError as error:
        raise GraphError(400, message=error.message) from None


def _check_options(query: Mapping[str, str], *allowed: str) -> None:
    for name in query:
        if name.startswith("$") and name not in allowed:
            raise GraphError(400, message=f"The query parameter '{name}' is not supported.")


def _parse_user_filter(asked: GraphRequest, readable: frozenset[str]) -> odata.Filter:
    wanted = odata.parse_filter(asked.query["$filter"], USER_PROPERTIES)
    if not wanted.names <= readable:
        raise _denied()
    return wanted


def _reader(names: tuple[str, ...], readable: frozenset[str]) -> Callable[[Person], dict[str, Any]]:
    """Return a function that builds a user; properties that the app may not read are null."""
    getters = [(name, USER_PROPERTIES[name] if name in readable else _constant_getter(None)) for name in names]
    return lambda person: {name: get(person) for name, get in getters}


def _member_reader(
    names: tuple[str, ...] | None, readable: frozenset[str], *, has_type: bool
) -> Callable[[Person | Group | Device], dict[str, Any]]:
    """Return a function that builds a member of a group; names that its type does not have are left out."""
    user_names = DEFAULT_USER_PROPERTIES if names is None else tuple(n for n in names if n in USER_PROPERTIES)
    group_names = DEFAULT_GROUP_PROPERTIES if names is None else tuple(n for n in names if n in GROUP_PROPERTIES)
    read_user = _reader(user_names, readable)
    # The app has no permission to read devices: Graph returns their type and id only.
    unreadable = dict.fromkeys(("displayName",) if names is None else names)

    def build(member: Person | Group | Device) -> dict[str, Any]:
        if isinstance(member, Person):
            kind, properties = "user", read_user(member)
        elif isinstance(member, Group):
            kind, properties = "group", {name: GROUP_PROPERTIES[name](member) for name in group_names}
        else:
            kind, properties = "device", {**unreadable, "id": member.object_id}
        return {"@odata.type": f"#microsoft.graph.{kind}", **properties} if has_type else properties

    return build


def _item_getter(name: str) -> Callable[[Any], Any]:
    return lambda item: item[name]


def _constant_getter(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def _denied() -> GraphError:
    return GraphError(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")


def _not_found(identity: str) -> GraphError:
    text = f"Resource '{identity}' does not exist or one of its queried reference-property objects are not present."
    return GraphError(404, "Request_ResourceNotFound", text)


def _needs_consistency_level() -> GraphError:
    text = "Unsupported Query: it needs the header 'ConsistencyLevel: eventual' and '$count=true'."
    return GraphError(400, "Request_UnsupportedQuery", text)
