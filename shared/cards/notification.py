"""Render the message of a notification, with the sender's own card, or with a card made of its content.

Cards follow Adaptive Cards schema 1.5, within the parts that Teams renders ("Cards reference", Microsoft Learn). The
activity has no `text` beside the card: Teams splits such a message in two and returns no id for it. Toasts and the chat
list show `summary`.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.cards.elements import action_sets, adaptive_card, heading, markdown_text, with_line_breaks
from shared.cards.footer import Footer
from shared.cards.mentions import mention_entities, show_mentions, without_mentions
from shared.cards.reader_times import with_local_times
from shared.cards.size import fit_activity, require_size
from shared.contract.models import Content, Notification
from shared.texts import FALLBACK_LANGUAGE, text_of

CARD_CONTENT_TYPE = "application/vnd.microsoft.card.adaptive"
#: Longest text of a toast, in characters; Teams cuts it anyway.
MAX_SUMMARY_CHARS = 200


def render_activity(
    notification: Notification, limit: int, footer: Footer | None = None, *, is_shared: bool = False
) -> bytes:
    """Return the message activity of a notification as JSON in UTF-8, of at most `limit` bytes in UTF-16.

    `is_shared`: several people see the card, so that it can mention some of them. Shorten the text of the content if
    necessary; raise `TooLarge` if that is not enough.
    """
    if notification.content is not None:
        # Before the text is shortened, because mentions and line breaks make it longer.
        content = show_mentions(notification.content, is_shared=is_shared)
        summary = without_mentions(notification.content.title, notification.content.mentions)
        return fit_activity(
            content.model_copy(update={"text": with_line_breaks(content.text)}),
            limit,
            lambda content: _message_activity(draw_notification_card(content, footer), summary),
        )
    own = notification.card or {}
    card = footer.append_to(own) if footer else own
    return require_size(_message_activity(card, card_summary(own) or notification.category), limit)


def _message_activity(card: dict[str, Any], summary: str) -> bytes:
    return orjson.dumps(
        {
            "type": "message",
            "summary": with_local_times(summary)[:MAX_SUMMARY_CHARS],
            "attachments": [{"contentType": CARD_CONTENT_TYPE, "content": card}],
            # Without this, Teams shows no toast for the message ("Channel data", Bot Framework for Teams).
            "channelData": {"notification": {"alert": True}},
        }
    )


def draw_notification_card(content: Content, footer: Footer | None = None) -> dict[str, Any]:
    """Return the Adaptive Card of `content`; without a footer it has no actions that call the bot.

    Its mentions are as `show_mentions` returns them.
    """
    language = footer.language if footer else FALLBACK_LANGUAGE
    body = [heading(content.title)]
    if content.text:
        body.append(markdown_text(content.text))
    body += [
        {"type": "Image", "url": image.url, "altText": image.alt_text, "size": "Stretch"}
        for image in content.all_images
    ]
    if content.facts:
        facts = [
            {"title": with_line_breaks(fact.title), "value": with_line_breaks(fact.value)} for fact in content.facts
        ]
        body.append({"type": "FactSet", "facts": facts, "spacing": "Medium"})
    if content.result:
        result = markdown_text(text_of(language, "result", result=content.result))
        body.append({"type": "Container", "style": "emphasis", "spacing": "Medium", "items": [result]})
    if content.actor:
        actor = text_of(language, "triggered", actor=content.actor.name)
        body.append(markdown_text(actor, isSubtle=True, size="Small"))
    actions: list[dict[str, Any]] = [
        {"type": "Action.OpenUrl", "title": link.title, "url": link.url} for link in content.all_links
    ]
    if footer:
        actions += [footer.button(each.id, each.title) for each in content.actions]
        actions.append(footer.acknowledge_button())
    body += action_sets(actions, spacing="Medium")
    if footer:
        body.append(footer.element())
    entities = mention_entities(content)
    return adaptive_card(body) | ({"msteams": {"entities": entities}} if entities else {})


def card_summary(card: dict[str, Any]) -> str:
    """Return the fallback text of an upstream system's card, or else its first text; "" if it has none."""
    body = card.get("body")
    texts = [each.get("text") for each in body if isinstance(each, dict)] if isinstance(body, list) else []
    return next((text for text in (card.get("fallbackText"), *texts) if isinstance(text, str) and text), "")
