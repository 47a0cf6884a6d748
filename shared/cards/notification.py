"""Render the card of a notification: what happened, the result, who triggered it, and what the reader can do.

Adaptive Cards schema 1.5, within what Teams renders ("Cards reference", Microsoft Learn). The activity has no `text`
beside the card, since Teams splits such a message in two and returns no id for it; `summary` is what a toast and the
list of chats show.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.cards.elements import block, buttons, card, heading
from shared.cards.footer import Controls
from shared.cards.size import fit, within
from shared.cards.texts import FALLBACK, text_of
from shared.contract.models import Content, Notification

CARD_TYPE = "application/vnd.microsoft.card.adaptive"
#: Longest text of a toast, in characters; Teams cuts it anyway.
MAX_SUMMARY_CHARS = 200


def activity(notification: Notification, limit: int, controls: Controls | None = None) -> bytes:
    """The message activity of a notification, as JSON in UTF-8, of at most `limit` bytes in UTF-16.

    A text that is too long for that is shortened; raises `TooLarge` where that is not enough.
    """
    if notification.content is not None:
        return fit(notification.content, limit, lambda content: _message(draw(content, controls), content.title))
    own = notification.card or {}
    whole = controls.onto(own) if controls else own
    return within(_message(whole, said(own) or notification.category), limit)


def _message(whole: dict[str, Any], summary: str) -> bytes:
    return orjson.dumps(
        {
            "type": "message",
            "summary": summary[:MAX_SUMMARY_CHARS],
            "attachments": [{"contentType": CARD_TYPE, "content": whole}],
            # Without it the message comes, but no toast does ("Channel data", Bot Framework for Teams).
            "channelData": {"notification": {"alert": True}},
        }
    )


def draw(content: Content, controls: Controls | None = None) -> dict[str, Any]:
    """The Adaptive Card of `content`, with the controls that are to be on it."""
    spoken = controls.language if controls else FALLBACK
    body = [heading(content.title)]
    if content.text:
        body.append(block(content.text))
    if content.image:
        body.append({"type": "Image", "url": content.image.url, "altText": content.image.alt_text, "size": "Stretch"})
    if content.facts:
        facts = [{"title": fact.title, "value": fact.value} for fact in content.facts]
        body.append({"type": "FactSet", "facts": facts, "spacing": "Medium"})
    if content.result:
        result = block(text_of(spoken, "result", result=content.result))
        body.append({"type": "Container", "style": "emphasis", "spacing": "Medium", "items": [result]})
    if content.actor:
        body.append(block(text_of(spoken, "triggered", actor=content.actor.name), isSubtle=True, size="Small"))
    actions: list[dict[str, Any]] = []
    if content.link:
        actions.append({"type": "Action.OpenUrl", "title": content.link.title, "url": content.link.url})
    if controls:
        actions += [controls.button(each.id, each.title) for each in content.actions]
        actions.append(controls.acknowledge())
    body += buttons(actions, spacing="Medium")
    if controls:
        body.append(controls.footer())
    return card(body)


def said(own: dict[str, Any]) -> str:
    """What a card of the caller's own says of itself: its fallback text, or its first text; "" for nothing."""
    body = own.get("body")
    texts = [each.get("text") for each in body if isinstance(each, dict)] if isinstance(body, list) else []
    return next((text for text in (own.get("fallbackText"), *texts) if isinstance(text, str) and text), "")
