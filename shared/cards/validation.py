"""The check of a card of the caller's own, at intake: is it an Adaptive Card, and does Teams render it?

What Teams does not render, with the source of each rule (Microsoft Learn, Microsoft Teams platform):

- a version above 1.5: "Types of cards", Support for Adaptive Cards;
- an image that is not at an https address: the same, Inline card images. Data URIs are taken by the schema, and
  "Format your bot messages" counts Base64 images apart; `icon:` names one of Fluent's icons (the Teams SDK's model);
- Action.Execute or `refresh` in a card below 1.4: the schema, and "Work with Universal Actions", whose 60 ids of
  people to refresh for are checked too;
- a mention whose text or entity stands without the other: "Format cards in Teams", Mention support.

More than six buttons are no fault: the rest is in a menu ("Format cards in Teams", Overflow menu).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from shared.cards import schema
from shared.cards.actions import OPAQUE
from shared.cards.schema import pointer
from shared.contract.faults import Fault

#: Most faults told of one card.
MAX_FAULTS = 50
#: Deepest nesting, in JSON levels (an element inside a container takes two): deeper ones exhaust the checker's stack.
MAX_DEPTH = 40
#: Most JSON values of a card, which the check goes through in about 0.1 s; one that Teams takes hardly has more.
MAX_VALUES = 6_000
#: Most people for whom Teams refreshes a card by itself.
MAX_REFRESHED_USERS = 60
#: Where the image behind a URL may be.
IMAGE_PREFIXES = ("https://", "data:image/", "icon:")

_VERSION = re.compile(r"1\.[0-5]")
_MENTION = re.compile(r"<at>[^<]*</at>")

Path = tuple[str | int, ...]
Part = tuple[Path, dict[str, Any]]


def faults(card: dict[str, Any]) -> list[Fault]:
    """What is wrong with `card`, a value of JSON, for Teams: at most `MAX_FAULTS`, pointers relative to the card."""
    if too_much := _too_much(card):
        return [too_much]
    return list(islice(chain(schema.faults(card), _unrendered(card)), MAX_FAULTS))


def _too_much(card: dict[str, Any]) -> Fault | None:
    level: list[Any] = [card]
    values = depth = 0
    while level:
        values, depth = values + len(level), depth + 1
        if values > MAX_VALUES:
            return Fault("", f"must have at most {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            return Fault("", f"must be nested at most {MAX_DEPTH} levels deep")
        level = [inner for each in level for inner in _inside(each)]
    return None


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unrendered(card: dict[str, Any]) -> Iterator[Fault]:
    parts = list(_parts((), card))
    version = card.get("version")
    if isinstance(version, str):
        if not _VERSION.fullmatch(version):
            yield Fault("/version", "must be 1.0 to 1.5: Teams renders no later one from a bot")
        elif version < "1.4":
            yield from _universal_actions(card, parts)
    refresh = card.get("refresh")
    people = refresh.get("userIds") if isinstance(refresh, dict) else None
    if isinstance(people, list) and len(people) > MAX_REFRESHED_USERS:
        yield Fault("/refresh/userIds", f"must name at most {MAX_REFRESHED_USERS} people")
    for path, part in parts:
        yield from _images(path, part)
    yield from _mentions(card, parts)


def _parts(path: Path, value: Any) -> Iterator[Part]:
    """Every object of a card, elements and actions among them, in the order of the card."""
    if isinstance(value, dict):
        yield path, value
        for name, inner in value.items():
            if name not in OPAQUE:
                yield from _parts((*path, name), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _parts((*path, index), inner)


def _universal_actions(card: dict[str, Any], parts: list[Part]) -> Iterator[Fault]:
    if "refresh" in card:
        yield Fault("/refresh", "needs version 1.4 or 1.5 of the card")
    for path, part in parts:
        if part.get("type") == "Action.Execute":
            yield Fault(pointer(*path, "type"), "needs version 1.4 or 1.5 of the card")


def _images(path: Path, part: dict[str, Any]) -> Iterator[Fault]:
    for name in ("url",) if part.get("type") in ("Image", "ImageRun") else ("iconUrl", "poster", "backgroundImage"):
        where: Path = (*path, name)
        url = part.get(name)
        if isinstance(url, dict):
            where, url = (*where, "url"), url.get("url")
        if isinstance(url, str) and not url.lower().startswith(IMAGE_PREFIXES):
            yield Fault(pointer(*where), "must be a URL beginning with https://, or a data URI of an image")


def _mentions(card: dict[str, Any], parts: list[Part]) -> Iterator[Fault]:
    texts = [found for path, part in parts for found in _texts(path, part)]
    written = {mention for _, text in texts for mention in _MENTION.findall(text)}
    entities = card["msteams"].get("entities", []) if isinstance(card.get("msteams"), dict) else []
    declared = set()
    for index, entity in enumerate(entities if isinstance(entities, list) else ()):
        if not isinstance(entity, dict) or entity.get("type") != "mention":
            continue
        text, who = entity.get("text"), entity.get("mentioned")
        if isinstance(text, str) and text in written:
            declared.add(text)
        else:
            where = pointer("msteams", "entities", index, "text")
            yield Fault(where, "must be <at>name</at> as it stands in a TextBlock or FactSet")
        if not isinstance(who, dict) or not isinstance(who.get("id"), str) or not who["id"]:
            yield Fault(pointer("msteams", "entities", index, "mentioned", "id"), "is missing")
    for path, text in texts:
        if not declared.issuperset(_MENTION.findall(text)):
            yield Fault(pointer(*path), "mentions someone without a mention of the same text in /msteams/entities")


def _texts(path: Path, part: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The texts in which Teams looks for mentions."""
    if part.get("type") == "TextBlock":
        found = [((*path, "text"), part.get("text"))]
    elif part.get("type") == "FactSet" and isinstance(part.get("facts"), list):
        facts = [(index, fact) for index, fact in enumerate(part["facts"]) if isinstance(fact, dict)]
        found = [((*path, "facts", i, name), fact.get(name)) for i, fact in facts for name in ("title", "value")]
    else:
        return
    yield from ((where, text) for where, text in found if isinstance(text, str))
