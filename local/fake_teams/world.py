"""The people, teams, chats and groups of the fake Teams, and where the bot is installed."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

#: The first tenant, unless another is given.
HOME_TENANT = "5f0c1b52-8f5e-4a57-9d0b-6b1d3c0f7a11"
#: The domain of the organisation from which guests come.
GUEST_DOMAIN = "partner.example"
_ADDRESS_NUMBER = re.compile(r"person(\d+)[@_]", re.IGNORECASE)


@dataclass(slots=True)
class Person:
    """One user; `id` (`29:`) and `conversation` (`a:`) are specific to this user and this bot.

    `mail_domain` None gives the mail address of the UPN. `mailbox_time_zone` is as Graph returns it, None without a
    mailbox. Without `uses_teams` and with `app_blocked` (an app policy), Graph refuses to install the app.
    """

    tenant: str
    object_id: str
    id: str
    conversation: str
    number: int
    locale: str
    time_zone: str
    installed: bool
    enabled: bool = True
    guest: bool = False
    uses_teams: bool = True
    app_blocked: bool = False
    mail_domain: str | None = None
    mailbox_time_zone: str | None = None

    @property
    def name(self) -> str:
        return f"Person {self.number}"

    @property
    def user_principal_name(self) -> str:
        if self.guest:
            return f"person{self.number}_{GUEST_DOMAIN}#EXT#@{self.tenant[:8]}.example"
        return f"person{self.number}@{self.tenant[:8]}.example"

    @property
    def mail(self) -> str:
        domain = self.mail_domain or (GUEST_DOMAIN if self.guest else f"{self.tenant[:8]}.example")
        return f"person{self.number}@{domain}"


@dataclass(slots=True)
class Channel:
    """A channel; the General channel has the id of its team and, as in responses of Teams, no name."""

    id: str
    name: str | None
    deleted: bool = False


@dataclass(slots=True)
class Team:
    tenant: str
    id: str
    group_id: str
    name: str
    members: list[Person]
    installed: bool
    channels: dict[str, Channel] = field(default_factory=dict)


@dataclass(slots=True)
class Chat:
    tenant: str
    id: str
    name: str
    members: list[Person]
    installed: bool


@dataclass(slots=True)
class Device:
    """A member of a group that is no person; apps here have no permission to read it."""

    object_id: str


@dataclass(slots=True, eq=False)
class Group:
    """A group of Entra ID: `unified` (Microsoft 365) holds people only, `security` also groups and devices."""

    tenant: str
    group_id: str
    name: str
    kind: Literal["unified", "security"]
    members: list[Person | Group | Device]
    _transitive: list[Person | Group | Device] | None = None

    @property
    def transitive(self) -> list[Person | Group | Device]:
        """All members, also those of groups in it, once each; listed once, because members do not change."""
        if self._transitive is None:
            found: dict[int, Person | Group | Device] = {}
            groups = [self]
            while groups:
                for member in groups.pop().members:
                    if id(member) not in found:
                        found[id(member)] = member
                        if isinstance(member, Group):
                            groups.append(member)
            self._transitive = list(found.values())
        return self._transitive


@dataclass(slots=True, frozen=True)
class FakeConversation:
    """A conversation of the person, team or chat `owner`; `id` has no `;messageid=` of a thread."""

    kind: Literal["personal", "groupChat", "channel"]
    id: str
    owner: Person | Team | Chat
    channel: Channel | None = None

    @property
    def tenant(self) -> str:
        return self.owner.tenant

    @property
    def person(self) -> str | None:
        return self.owner.object_id if isinstance(self.owner, Person) else None

    @property
    def exists(self) -> bool:
        return self.channel is None or not self.channel.deleted

    @property
    def members(self) -> list[Person]:
        return [self.owner] if isinstance(self.owner, Person) else self.owner.members


class World:
    """All tenants. Ids depend only on the tenant and a sequence number, so that the same growth gives the same ids."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.tenants: dict[str, dict[str, int]] = {}
        self.people: dict[str, Person] = {}
        self.teams: dict[str, Team] = {}
        self.chats: dict[str, Chat] = {}
        #: Groups, and the teams by the id of their group.
        self.groups: dict[str, Group | Team] = {}
        self.conversations: dict[str, FakeConversation] = {}
        self.threads: set[str] = set()
        self._by_tenant: dict[str, list[Person]] = {}
        self._last_id = 0

    def add_tenant(self, tenant: str | None) -> str:
        """Add the tenant unless it exists, and return its id in lower case; None adds one with a new id."""
        tenant = (tenant or _uuid(_digest("tenant", str(len(self.tenants))))).lower()
        self.tenants.setdefault(tenant, {})
        self._by_tenant.setdefault(tenant, [])
        return tenant

    def list_people(self, tenant: str) -> list[Person]:
        return self._by_tenant.get(tenant, [])

    def add_person(self, tenant: str, *, installed: bool, locale: str, time_zone: str, **more: Any) -> Person:
        """Add a person; `more` are the further fields of `Person`."""
        number, digest = self._next_number(tenant, "person")
        person = Person(
            tenant=tenant, object_id=_uuid(digest), id="29:1" + _text(digest), conversation="a:1" + _text(digest[::-1]),
            number=number, locale=locale, time_zone=time_zone, installed=installed, **more,
        )  # fmt: skip
        self.people[person.object_id] = person
        self.people[person.id] = person
        self._by_tenant[tenant].append(person)
        self.conversations[person.conversation] = FakeConversation("personal", person.conversation, person)
        return person

    def add_team(self, tenant: str, members: list[Person], *, channels: int, installed: bool) -> Team:
        number, digest = self._next_number(tenant, "team")
        team = Team(
            tenant,
            f"19:{_text(digest)[:43]}1@thread.tacv2",
            _uuid(digest),
            f"Team {number}",
            members,
            installed,
        )
        self.teams[team.id] = team
        self.groups[team.group_id] = team
        self._add_channel(team, Channel(team.id, None))
        for _ in range(channels):
            self.add_channel(team, None)
        return team

    def add_channel(self, team: Team, name: str | None) -> Channel:
        number, digest = self._next_number(team.tenant, "channel")
        channel = Channel(f"19:{digest.hex()[:32]}@thread.tacv2", name or f"Channel {number}")
        self._add_channel(team, channel)
        return channel

    def _add_channel(self, team: Team, channel: Channel) -> None:
        team.channels[channel.id] = channel
        self.conversations[channel.id] = FakeConversation("channel", channel.id, team, channel)

    def add_chat(self, tenant: str, members: list[Person], *, installed: bool) -> Chat:
        number, digest = self._next_number(tenant, "chat")
        chat = Chat(tenant, f"19:{digest.hex()[:32]}@thread.v2", f"Chat {number}", members, installed)
        self.chats[chat.id] = chat
        self.conversations[chat.id] = FakeConversation("groupChat", chat.id, chat)
        return chat

    def add_group(
        self, tenant: str, kind: Literal["unified", "security"], members: list[Person | Group | Device], *, devices: int
    ) -> Group:
        number, digest = self._next_number(tenant, "group")
        extra = [Device(_uuid(self._next_number(tenant, "device")[1])) for _ in range(devices)]
        group = Group(tenant, _uuid(digest), f"Group {number}", kind, [*members, *extra])
        self.groups[group.group_id] = group
        return group

    def find_user(self, tenant: str, address: str) -> Person | None:
        """Return the person of the tenant with this object id or UPN, in any case."""
        person = self.people.get(address.lower())
        if person is not None and person.tenant == tenant:
            return person
        person = self.find_by_number(tenant, address)
        return person if person is not None and person.user_principal_name.lower() == address.lower() else None

    def find_by_number(self, tenant: str, address: str) -> Person | None:
        """Return the only person who can have this UPN or mail address: all addresses hold the person's number."""
        found = _ADDRESS_NUMBER.match(address)
        people = self.list_people(tenant)
        return people[int(found[1]) - 1] if found and 0 < int(found[1]) <= len(people) else None

    def get_member(self, identity: str) -> Person | Group:
        """Return the person or group with this object id; raises ValueError."""
        group = self.groups.get(identity)
        return group if isinstance(group, Group) else self.get_person(identity)

    def select_members(self, tenant: str, size: int, index: int) -> list[Person]:
        """Return the `index`-th group of `size` people of the tenant, cyclically; all people if there are fewer."""
        people = self.list_people(tenant)
        size = min(size, len(people))
        start = index * size % len(people) if people else 0
        return list(itertools.islice(itertools.cycle(people), start, start + size))

    def get_person(self, identity: str) -> Person:
        """Return the person with this object id or `29:` id; raises ValueError."""
        person = self.people.get(identity)
        if person is None:
            raise ValueError(f"there is no person {identity}: see GET /_fake/world")
        return person

    def get_owner(self, identity: str) -> Person | Team | Chat:
        """Return the person, team or chat with this id; raises ValueError."""
        return self.teams.get(identity) or self.chats.get(identity) or self.get_person(identity)

    def find_conversation(self, conversation_id: str) -> FakeConversation | None:
        """Return the conversation; None if it is unknown, its channel is deleted, or its thread does not exist."""
        base, _, root = conversation_id.partition(";messageid=")
        conversation = self.conversations.get(base)
        if conversation is None or not conversation.exists or (root and conversation_id not in self.threads):
            return None
        return conversation

    def new_message_id(self) -> str:
        """Return a unique activity id in the format of Teams: milliseconds since the epoch."""
        self._last_id = max(self._last_id + 1, time.time_ns() // 1_000_000)
        return str(self._last_id)

    def _next_number(self, tenant: str, kind: str) -> tuple[int, bytes]:
        numbers = self.tenants[tenant]
        numbers[kind] = number = numbers.get(kind, 0) + 1
        return number, _digest(tenant, f"{kind}/{number}")


def _digest(*parts: str) -> bytes:
    return hashlib.sha512("\n".join(parts).encode()).digest()


def _uuid(digest: bytes) -> str:
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
