"""What a person wants to receive, when, and how; or what the people of a group chat or channel want together.

Plain values: `shared.storage.conversations` stores them, `shared.preferences.delivery_rules` evaluates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import orjson

from shared.keys import hash_of

if TYPE_CHECKING:
    from shared.preferences.categories import Category
from shared.states import Mode

T = TypeVar("T")

#: How many categories, mutes and topics one may have set.
MAX_ENTRIES = 100
#: Most bytes of UTF-16 that a column of text holds ("Understanding the Table service data model", Microsoft Learn).
LARGEST = 64 * 1024
#: A pause without an end.
FOREVER = datetime(9000, 1, 1, tzinfo=UTC)


class TooMany(ValueError):
    """More categories, mutes or topics than can be kept; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """`time_zone` is an IANA name and `locale` a language tag, "" where the person chose none.

    `categories` maps names to modes; `default` is the mode of all others (None: as declared). `stopped` turns all off
    and keeps the rest for a later start. `quiet` holds quiet hours (`quiet_hours.QuietHours`) and `digest` a digest
    schedule (`digest_schedule.DigestRule`), "" for none, and for the app's default. `mutes` maps hashes of thread keys
    to the end of each mute. `own_actions` asks also for what the person triggered. `version` counts changes.
    """

    time_zone: str = ""
    locale: str = ""
    stopped: bool = False
    default: Mode | None = None
    categories: Mapping[str, Mode] = field(default_factory=dict)
    paused_until: datetime | None = None
    quiet: str = ""
    digest: str = ""
    mutes: Mapping[str, datetime] = field(default_factory=dict)
    topics: tuple[str, ...] = ()
    own_actions: bool = False
    version: int = 0

    def mode(self, category: Category) -> Mode:
        """How one is told of this category; a mandatory one is never off."""
        chosen = self.categories.get(category.name) or self.default or category.default
        if category.mandatory:
            return Mode.IMMEDIATE if chosen is Mode.OFF else chosen
        return Mode.OFF if self.stopped else chosen

    def with_mode(self, category: str, mode: Mode) -> Preferences:
        return replace(self, categories=_limited({**self.categories, category: mode}, "categories"))

    def muted_until(self, thread: str) -> datetime | None:
        """When the mute of this thread key ends, or None."""
        return self.mutes.get(mute_key(thread))

    def mute(self, thread: str, until: datetime, now: datetime) -> Preferences:
        """The same with this thread muted, and without the mutes that have ended."""
        kept = {key: end for key, end in self.mutes.items() if end > now}
        return replace(self, mutes=_limited({**kept, mute_key(thread): until}, "muted threads"))

    def with_topic(self, topic: str) -> Preferences:
        known = dict.fromkeys((*self.topics, topic))
        return replace(self, topics=tuple(_limited(known, "topics")))

    def without_topic(self, topic: str) -> Preferences:
        return replace(self, topics=tuple(each for each in self.topics if each != topic))

    def encode(self) -> str:
        """JSON with what differs from the defaults; raises `TooMany` for more than a column holds."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        text = orjson.dumps({name: value for name, value in values.items() if value != _DEFAULTS[name]}).decode()
        if len(text.encode("utf-16-le")) > LARGEST:
            raise TooMany("there are too many preferences of long names")
        return text


def mute_key(thread: str) -> str:
    return hash_of(thread)[:16]


@lru_cache(maxsize=4096)
def decode_preferences(text: str) -> Preferences:
    """The preferences that `Preferences.encode` wrote, "" being none; what a newer version added is left out."""
    value = orjson.loads(text) if text else {}
    known = {name: value[name] for name in _DEFAULTS if name in value}
    if known.get("default"):
        known["default"] = Mode(known["default"])
    if "categories" in known:
        known["categories"] = {name: Mode(mode) for name, mode in known["categories"].items()}
    if known.get("paused_until"):
        known["paused_until"] = datetime.fromisoformat(known["paused_until"])
    if "mutes" in known:
        known["mutes"] = {key: datetime.fromisoformat(end) for key, end in known["mutes"].items()}
    if "topics" in known:
        known["topics"] = tuple(known["topics"])
    return Preferences(**known)


_DEFAULTS = {each.name: getattr(Preferences(), each.name) for each in fields(Preferences)}


def _limited(values: Mapping[str, T], what: str) -> Mapping[str, T]:
    if len(values) > MAX_ENTRIES:
        raise TooMany(f"there are too many {what}: at most {MAX_ENTRIES}")
    return values
