"""Let a botbuilder bot handle a verified activity, without botbuilder's network.

`CloudAdapter` would create a client, a token and a connection for every activity. Herald sends nothing in a turn, so
that its adapter only passes on the activity, and the answer to an invoke.
"""

from __future__ import annotations

import orjson
from botbuilder.core import Bot, BotAdapter, TurnContext
from botbuilder.schema import Activity as BotbuilderActivity
from botbuilder.schema import ActivityTypes, ResourceResponse

from messages.activity.verified import VerifiedActivity
from messages.http_answer import HttpAnswer

_STATE_KEY = "herald.verified_activity"


class SentInTurn(Exception):
    """The bot tried to send within a turn. Herald sends every message through its queues."""


def get_verified_activity(context: TurnContext) -> VerifiedActivity:
    """Return the activity of a turn that `TurnAdapter.process` started."""
    verified: VerifiedActivity = context.turn_state[_STATE_KEY]
    return verified


def set_verified_activity(context: TurnContext, verified: VerifiedActivity) -> None:
    """Replace the activity of a turn by one of which more is known."""
    context.turn_state[_STATE_KEY] = verified


class TurnAdapter(BotAdapter):  # type: ignore[misc]
    async def process(self, verified: VerifiedActivity, bot: Bot) -> HttpAnswer:
        """Run a turn of `bot`, and return its answer to an invoke, or 200 for any other activity."""
        # The bot dispatches on the type alone; its handlers take everything else from the verified activity.
        context = TurnContext(self, BotbuilderActivity(type=verified.activity.type))
        set_verified_activity(context, verified)
        await self.run_pipeline(context, bot.on_turn)
        sent = context.turn_state.get(self._INVOKE_RESPONSE_KEY)
        if sent is None:
            return HttpAnswer(200)
        response = sent.value
        return HttpAnswer(int(response.status), b"" if response.body is None else orjson.dumps(response.body))

    async def send_activities(
        self, context: TurnContext, activities: list[BotbuilderActivity]
    ) -> list[ResourceResponse]:
        for activity in activities:
            if activity.type != ActivityTypes.invoke_response:
                raise SentInTurn
            context.turn_state[self._INVOKE_RESPONSE_KEY] = activity
        return [ResourceResponse(id="") for _ in activities]

    async def update_activity(self, context: TurnContext, activity: BotbuilderActivity) -> None:
        raise SentInTurn

    async def delete_activity(self, context: TurnContext, reference: object) -> None:
        raise SentInTurn
