"""The state of one fake Teams, which the Bot Connector, the token endpoint and the control API share."""

from __future__ import annotations

import asyncio

from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.fault_injector import FaultInjector
from local.fake_teams.inbox import Inbox
from local.fake_teams.keys import KeyRing
from local.fake_teams.rate_limits import RateLimits
from local.fake_teams.token_issuer import BotRegistration, TokenIssuer
from local.fake_teams.traffic import Traffic
from local.fake_teams.world import Chat, Person, Team, World


class FakeState:
    """The world, the inbox, and everything else that a reset restores to `behaviour` and `growth`."""

    def __init__(self, bot: BotRegistration, behaviour: Behaviour, growth: Growth) -> None:
        self.bot = bot
        self.behaviour = behaviour.model_copy()
        self.world = World()
        self.keys = KeyRing()
        self.tokens = TokenIssuer(bot, self.behaviour)
        self.limits = RateLimits(self.behaviour)
        self.faults = FaultInjector()
        self.inbox = Inbox()
        self.traffic = Traffic()
        self._initial_behaviour = behaviour
        self._initial_growth = growth

    async def create_keys(self) -> None:
        await asyncio.gather(self.keys.create_first_key(), self.tokens.create_key())

    def reset(self) -> None:
        """Restore the initial state; keys and tokens stay valid, so that a running app can continue."""
        for part in (self.world, self.tokens, self.limits, self.faults, self.inbox, self.traffic):
            part.clear()
        for name in Behaviour.model_fields:
            setattr(self.behaviour, name, getattr(self._initial_behaviour, name))
        self.grow(self._initial_growth.model_copy(update={"tenant": self.bot.tenant}))

    def grow(self, growth: Growth) -> tuple[list[Person], list[Team], list[Chat]]:
        """Add people, teams and chats to the world, and return them."""
        world = self.world
        tenant = world.add_tenant(growth.tenant)
        people = [
            world.add_person(tenant, installed=growth.installed, locale=growth.locale, time_zone=growth.time_zone)
            for _ in range(growth.people)
        ]
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
        return people, teams, chats
