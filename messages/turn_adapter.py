"""Run a bot's turn on one activity without botbuilder's network, and keep its answer to an invoke.

`CloudAdapter` would create a client, a token and a connection for every activity; nothing here sends.
"""

from __future__ import annotations

from typing import Any

from azure.core.exceptions import DeserializationError
from botbuilder.core import Bot, BotAdapter, InvokeResponse, TurnContext
from botbuilder.schema import Activity, ActivityTypes, ResourceResponse


class NotAnActivity(Exception):
    """botbuilder cannot read the activity."""


class SendingInTurn(Exception):
    """A bot tried to send within a turn: what it says goes through the queues, as all messages do."""


def read_activity(body: dict[str, Any]) -> Activity:
    """botbuilder's activity of a JSON body; raises `NotAnActivity`."""
    try:
        return Activity.from_dict(body)  # not `deserialize`: it loses conversation.tenant_id
    except (DeserializationError, RecursionError):
        raise NotAnActivity from None


class TurnAdapter(BotAdapter):  # type: ignore[misc]
    async def process(self, activity: Activity, bot: Bot, state: dict[str, object]) -> InvokeResponse | None:
        """Run `bot` on an activity, with `state` as its turn state; its response to an invoke."""
        context = TurnContext(self, activity)
        context.turn_state.update(state)
        await self.run_pipeline(context, bot.on_turn)
        answer = context.turn_state.get(self._INVOKE_RESPONSE_KEY)
        return answer.value if answer else None

    async def send_activities(self, context: TurnContext, activities: list[Activity]) -> list[ResourceResponse]:
        for activity in activities:
            if activity.type != ActivityTypes.invoke_response:
                raise SendingInTurn
            context.turn_state[self._INVOKE_RESPONSE_KEY] = activity
        return [ResourceResponse(id="") for _ in activities]

    async def update_activity(self, context: TurnContext, activity: Activity) -> None:
        raise SendingInTurn

    async def delete_activity(self, context: TurnContext, reference: object) -> None:
        raise SendingInTurn
