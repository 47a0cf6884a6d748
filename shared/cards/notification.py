"""The card of a notification: what happened, what resulted, who set it off, and what one can do.

Adaptive Cards schema 1.5, within what Teams renders ("Cards reference", Microsoft Learn). The activity carries
no `text` beside the card, since Teams splits such a message in two and returns no id for it; `summary` is what
a toast and the list of chats show.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.cards.controls import Controls
from shared.cards.size import fit, within
from shared.contract import Content, Notification

CARD_TYPE = "application/vnd.microsoft.card.adaptive"
#: Longest text of a toast, in characters; Teams cuts it anyway.
LONGEST_SUMMARY = 200


def activity(notification: Notification, limit: int, controls: Controls | None = None) -> bytes:
    """The message activity of a notification, as JSON in UTF-8, of at most `limit` bytes in UTF-16.

    A text that is too long for that is shortened; raises `TooLarge` where that is not enough.
    """
    if notification.content is not None:
        return fit(notification.content, limit, lambda content: _message(draw(content), content.title))
    card = notification.card or {}
    return within(_message(card, _summary(card) or notification.category), limit)


def _message(card: dict[str, Any], summary: str) -> bytes:
    return orjson.dumps(
        {
            "type": "message",
            "summary": summary[:LONGEST_SUMMARY],
            "attachments": [{"contentType": CARD_TYPE, "content": card}],
            # Without it the message comes, but no toast does ("Channel data", Bot Framework for Teams).
            "channelData": {"notification": {"alert": True}},
        }
    )


def draw(content: Content) -> dict[str, Any]:
    """The Adaptive Card of `content`."""
    body: list[dict[str, Any]] = [_text(content.title, size="Large", weight="Bolder", style="heading")]
    if content.text:
        body.append(_text(content.text))
    if content.image:
        body.append({"type": "Image", "url": content.image.url, "altText": content.image.alt_text, "size": "Stretch"})
    if content.facts:
        facts = [{"title": fact.title, "value": fact.value} for fact in content.facts]
        body.append({"type": "FactSet", "facts": facts, "spacing": "Medium"})
    if content.result:
        result = _text(f"**Result:** {content.result}")
        body.append({"type": "Container", "style": "emphasis", "spacing": "Medium", "items": [result]})
    if content.actor:
        body.append(_text(f"Triggered by {content.actor.name}", isSubtle=True, size="Small"))
    card: dict[str, Any] = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.5",
        "body": body,
    }
    buttons: list[dict[str, Any]] = []
    if content.link:
        buttons.append({"type": "Action.OpenUrl", "title": content.link.title, "url": content.link.url})
    buttons += [{"type": "Action.Execute", "title": each.title, "verb": each.id} for each in content.actions]
    if buttons:
        card["actions"] = buttons
    return card


def _text(text: str, **style: object) -> dict[str, Any]:
    return {"type": "TextBlock", "text": text, "wrap": True, **style}


def _summary(card: dict[str, Any]) -> str:
    """What a card of the caller's own says of itself: its fallback text, or its first text."""
    if isinstance(card.get("fallbackText"), str):
        return str(card["fallbackText"])
    body = card.get("body")
    texts = (each.get("text") for each in body if isinstance(each, dict)) if isinstance(body, list) else ()
    return next((text for text in texts if isinstance(text, str) and text), "")
