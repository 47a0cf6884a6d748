"""Show the people whom a content mentions: as mentions where several people see the card, else as bold names.

An author writes `<at>name</at>` in the title, the text, the result or a fact, and says in `mentions` who that is. Teams
needs the same text in an entity of the card, with an Entra object id or a user principal name ("Format cards in Teams",
Mention support, Microsoft Learn). Any other `<at>` is shown as text, so that nobody who can write into a text can
mention somebody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared.contract.models import Content, Mention

#: A mention as it is written in a text.
MENTION = re.compile(r"<at>[^<]*</at>")

_SPLIT = re.compile(f"({MENTION.pattern})")
_TAG = re.compile(r"<(?=/?at\b)", re.IGNORECASE)
#: Characters that begin Markdown or a function inside a line. A name is escaped no more than it must be: Teams may show
#: the escapes of a mention.
_INLINE_MARKS = re.compile(r"[\\`*_{}\[\]~]")


def find_missing_mentions(content: Content) -> Sequence[int]:
    """Return the indexes of the mentions that no text of the content has as `<at>name</at>`."""
    written = {found for text in _texts(content) for found in MENTION.findall(text)}
    return [index for index, each in enumerate(content.mentions) if _tag(each.name) not in written]


def show_mentions(content: Content, *, is_shared: bool) -> Content:
    """Return the content with its mentions as Teams reads them; `is_shared`: several people see the card."""
    actor = content.actor
    if not any("<" in text for text in (*_texts(content), actor.name if actor else "")):
        return content
    shown = {
        _tag(each.name): _tag(_escape(each.name)) if is_shared else f"**{_escape(each.name.strip())}**"
        for each in content.mentions
    }
    facts = [
        fact.model_copy(update={"title": _replace(fact.title, shown), "value": _replace(fact.value, shown)})
        for fact in content.facts
    ]
    texts = {name: _replace(getattr(content, name), shown) for name in ("title", "text", "result")}
    actor = actor and actor.model_copy(update={"name": _replace(actor.name, {})})
    return content.model_copy(update={**texts, "facts": facts, "actor": actor})


def without_mentions(text: str, mentions: Sequence[Mention]) -> str:
    """Return a text of a content for where Teams knows no mentions, such as a toast: with the names alone."""
    for each in mentions:
        text = text.replace(_tag(each.name), each.name)
    return text


def mention_entities(content: Content) -> list[dict[str, Any]]:
    """Return the entities of the mentions in a content that `show_mentions` returned."""
    written = {found for text in _texts(content) for found in MENTION.findall(text)}
    return [
        {"type": "mention", "text": tag, "mentioned": {"id": each.user, "name": each.name}}
        for each in content.mentions
        if (tag := _tag(_escape(each.name))) in written
    ]


def _texts(content: Content) -> Iterator[str]:
    """Yield the texts in which a person can be mentioned."""
    yield from (content.title, content.text, content.result)
    for fact in content.facts:
        yield from (fact.title, fact.value)


def _tag(name: str) -> str:
    return f"<at>{name}</at>"


def _escape(name: str) -> str:
    return _INLINE_MARKS.sub(lambda found: "\\" + found[0], name)


def _replace(text: str, shown: Mapping[str, str]) -> str:
    """Return a text with each of these mentions as it is shown, and any other `<at>` as text."""
    return "".join(shown.get(part) or _TAG.sub("&lt;", part) for part in _SPLIT.split(text))
