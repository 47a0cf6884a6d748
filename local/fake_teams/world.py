"""The people, teams and chats of Teams, and for whom the bot is installed."""

from __future__ import annotations

import base64
import hashlib
import itertools
import time
import uuid
from dataclasses import dataclass, field
from typing import Literal

#: The first tenant, when none is named.
HOME_TENANT = "5f0c1b52-8f5e-4a57-9d0b-6b1d3c0f7a11"


@dataclass(slots=True)
class Person:
    """One user; `id` (`29:`) and `conversation` (`a:`) belong to this user and this bot."""

    tenant: str
    object_id: str
    id: str
    conversation: str
    number: int
    locale: str
    time_zone: str
    installed: bool

    @property
    def name(self) -> str:
        return f"Person {self.number}"

    @property
    def user_principal_name(self) -> str:
        return f"person{self.number}@{self.tenant[:8]}.example"


@dataclass(slots=True)
class Channel:
    """A channel; the General channel has its team's id and, as in Teams' answers, no name."""

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


@dataclass(slots=True, frozen=True)
class Place:
    """Where a message can be posted: `id` is the conversation's id without the thread's `;messageid=`."""

    kind: Literal["personal", "groupChat", "channel"]
    id: str
    home: Person | Team | Chat
    channel: Channel | None = None

    @property
    def tenant(self) -> str:
        return self.home.tenant

    @property
    def person(self) -> str | None:
        return self.home.object_id if isinstance(self.home, Person) else None

    @property
    def exists(self) -> bool:
        return self.channel is None or not self.channel.deleted

    @property
    def members(self) -> list[Person]:
        return [self.home] if isinstance(self.home, Person) else self.home.members


class World:
    """All tenants; ids depend on the tenant and a running number alone, so the same growth gives the same ids."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.tenants: dict[str, dict[str, int]] = {}
        self.people: dict[str, Person] = {}
        self.teams: dict[str, Team] = {}
        self.chats: dict[str, Chat] = {}
        self.places: dict[str, Place] = {}
        self.threads: set[str] = set()
        self._by_tenant: dict[str, list[Person]] = {}
        self._last_id = 0

    def add_tenant(self, tenant: str | None) -> str:
        """The tenant's id in lower case, after making it where it is new; without an id, a new one."""
        tenant = (tenant or _uuid(_digest("tenant", str(len(self.tenants))))).lower()
        self.tenants.setdefault(tenant, {})
        self._by_tenant.setdefault(tenant, [])
        return tenant

    def people_of(self, tenant: str) -> list[Person]:
        return self._by_tenant.get(tenant, [])

    def add_person(self, tenant: str, *, installed: bool, locale: str, time_zone: str) -> Person:
        number, digest = self._next(tenant, "person")
        person = Person(
            tenant=tenant, object_id=_uuid(digest), id="29:1" + _text(digest), conversation="a:1" + _text(digest[::-1]),
            number=number, locale=locale, time_zone=time_zone, installed=installed,
        )  # fmt: skip
        self.people[person.object_id] = person
        self.people[person.id] = person
        self._by_tenant[tenant].append(person)
        self.places[person.conversation] = Place("personal", person.conversation, person)
        return person

    def add_team(self, tenant: str, members: list[Person], *, channels: int, installed: bool) -> Team:
        number, digest = self._next(tenant, "team")
        team = Team(
            tenant,
            f"19:{_text(digest)[:43]}1@thread.tacv2",
            _uuid(digest),
            f"Team {number}",
            members,
            installed,
        )
        self.teams[team.id] = team
        self._add_channel(team, Channel(team.id, None))
        for _ in range(channels):
            self.add_channel(team, None)
        return team

    def add_channel(self, team: Team, name: str | None) -> Channel:
        number, digest = self._next(team.tenant, "channel")
        channel = Channel(f"19:{digest.hex()[:32]}@thread.tacv2", name or f"Channel {number}")
        self._add_channel(team, channel)
        return channel

    def _add_channel(self, team: Team, channel: Channel) -> None:
        team.channels[channel.id] = channel
        self.places[channel.id] = Place("channel", channel.id, team, channel)

    def add_chat(self, tenant: str, members: list[Person], *, installed: bool) -> Chat:
        number, digest = self._next(tenant, "chat")
        chat = Chat(tenant, f"19:{digest.hex()[:32]}@thread.v2", f"Chat {number}", members, installed)
        self.chats[chat.id] = chat
        self.places[chat.id] = Place("groupChat", chat.id, chat)
        return chat

    def take_members(self, tenant: str, size: int, turn: int) -> list[Person]:
        """The next `size` people of the tenant (all of them, if there are fewer), going round from turn to turn."""
        people = self.people_of(tenant)
        size = min(size, len(people))
        start = turn * size % len(people) if people else 0
        return list(itertools.islice(itertools.cycle(people), start, start + size))

    def person(self, identity: str) -> Person:
        """The person of this object id or `29:` id; raises ValueError."""
        person = self.people.get(identity)
        if person is None:
            raise ValueError(f"there is no person {identity}")
        return person

    def home(self, identity: str) -> Person | Team | Chat:
        """The person, team or chat of this id; raises ValueError."""
        return self.teams.get(identity) or self.chats.get(identity) or self.person(identity)

    def place(self, conversation: str) -> Place | None:
        """Where this conversation is; None for an unknown one, a deleted channel, or a thread nobody began."""
        base, _, root = conversation.partition(";messageid=")
        place = self.places.get(base)
        if place is None or not place.exists or (root and conversation not in self.threads):
            return None
        return place

    def new_message_id(self) -> str:
        """An activity id as Teams gives them: epoch milliseconds, here never the same twice."""
        self._last_id = max(self._last_id + 1, time.time_ns() // 1_000_000)
        return str(self._last_id)

    def _next(self, tenant: str, kind: str) -> tuple[int, bytes]:
        numbers = self.tenants[tenant]
        numbers[kind] = number = numbers.get(kind, 0) + 1
        return number, _digest(tenant, f"{kind}/{number}")


def _digest(*parts: str) -> bytes:
    return hashlib.sha512("\n".join(parts).encode()).digest()


def _uuid(digest: bytes) -> str:
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
