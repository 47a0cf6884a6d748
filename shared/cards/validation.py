"""Validate the card of an upstream system at ingestion: is it an Adaptive Card, and does Teams render it?

Faults beyond the schema, with the source of each rule (Microsoft Learn, Microsoft Teams platform):

- a version above 1.5: "Types of cards", Support for Adaptive Cards;
- an image without an https address: the same page, Inline card images. The schema allows data URIs, and "Format your
  bot messages" does not count Base64 images; `icon:` names a Fluent icon (the Teams SDK's card model);
- a link of another scheme than those of web pages, mail, calls and Teams, or with white space or control characters:
  it could run a script or open a file, and clients read such a URL in different ways (RFC 3986, section 7);
- Action.Execute or `refresh` in a card below 1.4, or `refresh` for more than 60 people: the schema, and "Work with
  Universal Actions";
- Action.Submit, whose click Teams sends as a message; Action.Execute that has neither verb nor id;
- the text of a mention without its entity, or the reverse: "Format cards in Teams", Mention support.

More than six buttons are allowed: Teams shows the others in a menu ("Format cards in Teams", Overflow menu).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from shared.cards.action_verbs import verb_of
from shared.cards.actions import OPAQUE_PROPERTIES
from shared.cards.mentions import MENTION
from shared.cards.schema import find_schema_faults, json_pointer
from shared.contract.faults import Fault
from shared.contract.urls import IMAGE_SCHEMES, LINK_SCHEMES, find_url_fault

#: Most faults reported for one card.
MAX_FAULTS = 50
#: Deepest nesting, in JSON levels (an element in a container is two deeper): more would exhaust the validator's stack.
MAX_DEPTH = 40
#: Most JSON values in a card: the check of so many takes about 0.1 s, and a larger card hardly fits Teams' limit.
MAX_VALUES = 6_000
#: Most people for whom Teams refreshes a card automatically.
MAX_REFRESHED_USERS = 60
#: The URLs from which Teams loads an image.
IMAGE_URL_PREFIXES = ("https://", "data:image/", "icon:")

_VERSION = re.compile(r"1\.[0-5]")

JsonPath = tuple[str | int, ...]
LocatedObject = tuple[JsonPath, dict[str, Any]]


def find_faults(card: dict[str, Any]) -> list[Fault]:
    """Return at most `MAX_FAULTS` faults of `card`, parsed JSON, with pointers relative to the card."""
    if fault := _find_excess(card):
        return [fault]
    return list(islice(chain(find_schema_faults(card), _find_unrendered(card)), MAX_FAULTS))


def _find_excess(card: dict[str, Any]) -> Fault | None:
    level: list[Any] = [card]
    values = depth = 0
    while level:
        values, depth = values + len(level), depth + 1
        if values > MAX_VALUES:
            return Fault("", f"must have at most {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            return Fault("", f"must be nested at most {MAX_DEPTH} levels deep")
        level = [child for each in level for child in _children(each)]
    return None


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _find_unrendered(card: dict[str, Any]) -> Iterator[Fault]:
    objects = list(_walk_objects((), card))
    version = card.get("version")
    if isinstance(version, str):
        if not _VERSION.fullmatch(version):
            yield Fault("/version", "must be 1.0 to 1.5: Teams renders no later version from a bot")
        elif version < "1.4":
            yield from _check_universal_actions(card, objects)
    refresh = card.get("refresh")
    people = refresh.get("userIds") if isinstance(refresh, dict) else None
    if isinstance(people, list) and len(people) > MAX_REFRESHED_USERS:
        yield Fault("/refresh/userIds", f"must name at most {MAX_REFRESHED_USERS} people")
    for path, each in objects:
        yield from _check_actions(path, each)
        yield from _check_images(path, each)
        yield from _check_links(path, each)
    yield from _check_mentions(card, objects)


def _walk_objects(path: JsonPath, value: Any) -> Iterator[LocatedObject]:
    """Yield every object of a card with its path, such as elements and actions, in the order of the card."""
    if isinstance(value, dict):
        yield path, value
        for name, inner in value.items():
            if name not in OPAQUE_PROPERTIES:
                yield from _walk_objects((*path, name), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk_objects((*path, index), inner)


def _check_universal_actions(card: dict[str, Any], objects: list[LocatedObject]) -> Iterator[Fault]:
    if "refresh" in card:
        yield Fault("/refresh", "needs version 1.4 or 1.5 of the card")
    for path, each in objects:
        if each.get("type") == "Action.Execute":
            yield Fault(json_pointer(*path, "type"), "needs version 1.4 or 1.5 of the card")


def _check_actions(path: JsonPath, action: dict[str, Any]) -> Iterator[Fault]:
    """Check that a click reaches the bot, and names what was clicked."""
    if action.get("type") == "Action.Submit" and "fallback" not in path:  # a fallback is for clients without Execute
        yield Fault(json_pointer(*path, "type"), "must be Action.Execute: nothing answers Action.Submit")
    elif action.get("type") == "Action.Execute" and not verb_of(action):
        yield Fault(json_pointer(*path, "verb"), "is required, or an id: the click is reported under it")


def _check_images(path: JsonPath, owner: dict[str, Any]) -> Iterator[Fault]:
    for name in ("url",) if owner.get("type") in ("Image", "ImageRun") else ("iconUrl", "poster", "backgroundImage"):
        where: JsonPath = (*path, name)
        url = owner.get(name)
        if isinstance(url, dict):
            where, url = (*where, "url"), url.get("url")
        if not isinstance(url, str):
            continue
        if not url.lower().startswith(IMAGE_URL_PREFIXES):
            yield Fault(json_pointer(*where), "must be a URL that begins with https://, or a data URI of an image")
        elif url.lower().startswith("https:") and (fault := find_url_fault(url, IMAGE_SCHEMES)):
            yield Fault(json_pointer(*where), fault)


def _check_links(path: JsonPath, owner: dict[str, Any]) -> Iterator[Fault]:
    """Yield the faults of the URLs that a click opens or plays: those of actions, and of media and their captions."""
    if owner.get("type") in ("Image", "ImageRun") or path[-1:] == ("backgroundImage",):
        return  # a picture
    url = owner.get("url")
    if isinstance(url, str) and (fault := find_url_fault(url, LINK_SCHEMES)):
        yield Fault(json_pointer(*path, "url"), fault)


def _check_mentions(card: dict[str, Any], objects: list[LocatedObject]) -> Iterator[Fault]:
    texts = [text for path, each in objects for text in _texts_with_mentions(path, each)]
    written = {mention for _, text in texts for mention in MENTION.findall(text)}
    entities = card["msteams"].get("entities", []) if isinstance(card.get("msteams"), dict) else []
    declared = set()
    for index, entity in enumerate(entities if isinstance(entities, list) else ()):
        if not isinstance(entity, dict) or entity.get("type") != "mention":
            continue
        text, person = entity.get("text"), entity.get("mentioned")
        if isinstance(text, str) and text in written:
            declared.add(text)
        else:
            where = json_pointer("msteams", "entities", index, "text")
            yield Fault(where, "must be the <at>name</at> of a TextBlock or FactSet")
        if not isinstance(person, dict) or not isinstance(person.get("id"), str) or not person["id"]:
            yield Fault(json_pointer("msteams", "entities", index, "mentioned", "id"), "is missing")
    for path, text in texts:
        if not declared.issuperset(MENTION.findall(text)):
            yield Fault(json_pointer(*path), "mentions someone without an entity of the same text in /msteams/entities")


def _texts_with_mentions(path: JsonPath, element: Mapping[str, Any]) -> Iterator[tuple[JsonPath, str]]:
    """Yield the texts of an element in which Teams looks for mentions."""
    if element.get("type") == "TextBlock":
        found = [((*path, "text"), element.get("text"))]
    elif element.get("type") == "FactSet" and isinstance(element.get("facts"), list):
        facts = [(index, fact) for index, fact in enumerate(element["facts"]) if isinstance(fact, dict)]
        found = [((*path, "facts", i, name), fact.get(name)) for i, fact in facts for name in ("title", "value")]
    else:
        return
    yield from ((where, text) for where, text in found if isinstance(text, str))
