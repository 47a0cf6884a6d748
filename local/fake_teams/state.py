"""The state of one fake Teams, which the Bot Connector, the token endpoint and the control API share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, get_args

from tzlocal.windows_tz import tz_win

from local.fake_teams.api import Behaviour, Credentials, GraphPermission, Growth
from local.fake_teams.fault_injector import FaultInjector
from local.fake_teams.inbox import Inbox
from local.fake_teams.keys import KeyRing
from local.fake_teams.rate_limits import GraphLimits, RateLimits
from local.fake_teams.token_issuer import BotRegistration, TokenIssuer
from local.fake_teams.traffic import Traffic
from local.fake_teams.world import Chat, Group, Person, Team, World

ALL_PERMISSIONS: frozenset[str] = frozenset(get_args(GraphPermission))


@dataclass(slots=True)
class GraphTenant:
    """What Graph permits the app in a tenant, and whether the tenant's app catalogue has the app."""

    permissions: frozenset[str] = ALL_PERMISSIONS
    catalogue: bool = True


class FakeState:
    """The world, the inbox, and everything else that a reset restores to `behaviour` and `growth`."""

    def __init__(self, bot: BotRegistration, behaviour: Behaviour, growth: Growth) -> None:
        self.bot = bot
        self.behaviour = behaviour.model_copy()
        self.world = World()
        self.keys = KeyRing()
        self.tokens = TokenIssuer(bot, self.behaviour, self.world)
        self.limits = RateLimits(self.behaviour)
        self.graph_limits = GraphLimits(self.behaviour)
        self.graph_tenants: dict[str, GraphTenant] = {}
        #: Page tokens of Graph from before this number have expired.
        self.page_generation = 0
        #: What the fake still does after a response.
        self.tasks: set[asyncio.Task[None]] = set()
        self.faults = FaultInjector()
        self.inbox = Inbox()
        self.traffic = Traffic()
        self._initial_behaviour = behaviour
        self._initial_growth = growth

    async def create_keys(self) -> None:
        await asyncio.gather(self.keys.create_first_key(), self.tokens.create_key())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this beside the requests, at most until the next reset."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()

    def reset(self) -> None:
        """Restore the initial state; keys and tokens stay valid, so that a running app can continue."""
        for part in (self.world, self.tokens, self.limits, self.graph_limits, self.faults, self.inbox, self.traffic):
            part.clear()
        self.cancel_tasks()
        self.graph_tenants.clear()
        self.tokens.credentials = Credentials()
        for name in Behaviour.model_fields:
            setattr(self.behaviour, name, getattr(self._initial_behaviour, name))
        self.grow(self._initial_growth.model_copy(update={"tenant": self.bot.tenant}))

    def graph_tenant(self, tenant: str) -> GraphTenant:
        return self.graph_tenants.setdefault(tenant, GraphTenant())

    def grow(self, growth: Growth) -> tuple[list[Person], list[Team], list[Chat], list[Group]]:
        """Add people, teams, chats and groups to the world, and return them; raises ValueError."""
        world = self.world
        named = [world.get_member(identity) for identity in growth.member_ids]
        if growth.group_kind == "unified" and (growth.devices or not all(isinstance(each, Person) for each in named)):
            raise ValueError("a unified group holds people only")
        tenant = world.add_tenant(growth.tenant)
        mailbox_zone = growth.mailbox_time_zone or tz_win.get(growth.time_zone, growth.time_zone)
        people = [
            world.add_person(
                tenant, installed=growth.installed, locale=growth.locale, time_zone=growth.time_zone,
                guest=growth.guests, enabled=growth.enabled, uses_teams=growth.uses_teams,
                app_blocked=growth.app_blocked, mail_domain=growth.mail_domain,
                mailbox_time_zone=mailbox_zone if growth.mailbox else None,
            )
            for _ in range(growth.people)
        ]  # fmt: skip
        teams = [
            world.add_team(
                tenant, world.select_members(tenant, growth.members, index),
                channels=growth.channels, installed=growth.installed,
            )
            for index in range(growth.teams)
        ]  # fmt: skip
        chats = [
            world.add_chat(tenant, world.select_members(tenant, growth.members, index), installed=growth.installed)
            for index in range(growth.chats)
        ]
        groups = [
            world.add_group(
                tenant,
                growth.group_kind,
                [*named] or [*world.select_members(tenant, growth.members, index)],
                devices=growth.devices,
            )
            for index in range(growth.groups)
        ]
        return people, teams, chats, groups
