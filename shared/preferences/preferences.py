"""The preferences of a person, a group chat or a channel.

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
from shared.texts import InputError

T = TypeVar("T")

#: Most entries of each: categories, mutes, topics.
MAX_ENTRIES = 100
#: Most bytes (UTF-16) of a text column: below the 64 KiB of "Understanding the Table service data model" (Microsoft
#: Learn), because storage refuses values that are slightly smaller than that.
MAX_COLUMN_BYTES = 64_000
#: A pause without an end.
FOREVER = datetime(9000, 1, 1, tzinfo=UTC)


class TooManyPreferences(InputError):
    """There are more categories, mutes or topics than can be stored; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """`time_zone` is an IANA name and `locale` a language tag, "" if the person chose none.

    `categories` maps names to modes; `default` is the mode of all others (None: as declared). `stopped` switches
    everything off and keeps the rest for a later start. `quiet` is the text of `QuietHours`, "" for none, and `digest`
    that of a `DigestSchedule`, "" for the app's default. `mutes` maps hashes of thread keys to the end of each mute.
    With `own_actions` the person also gets notifications that they triggered. `version` counts changes.
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
        """Return the mode of a category; a mandatory one is never off."""
        chosen = self.categories.get(category.name) or self.default or category.default
        if category.mandatory:
            return Mode.IMMEDIATE if chosen is Mode.OFF else chosen
        return Mode.OFF if self.stopped else chosen

    def with_mode(self, category: str, mode: Mode) -> Preferences:
        return replace(self, categories=_limited({**self.categories, category: mode}, "categories"))

    def muted_until(self, thread: str) -> datetime | None:
        """Return when the mute of a thread key ends, or None."""
        return self.mutes.get(mute_key(thread))

    def mute(self, thread: str, until: datetime, now: datetime) -> Preferences:
        """Return a copy with this thread muted, and without mutes that have ended."""
        current = {key: end for key, end in self.mutes.items() if end > now}
        return replace(self, mutes=_limited({**current, mute_key(thread): until}, "mutes"))

    def with_topic(self, topic: str) -> Preferences:
        topics = dict.fromkeys((*self.topics, topic))
        return replace(self, topics=tuple(_limited(topics, "topics")))

    def without_topic(self, topic: str) -> Preferences:
        return replace(self, topics=tuple(each for each in self.topics if each != topic))

    def encode(self) -> str:
        """Return the values that differ from the defaults as JSON; raises `TooManyPreferences` if they are too long."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        text = orjson.dumps({name: value for name, value in values.items() if value != _DEFAULTS[name]}).decode()
        if len(text.encode("utf-16-le")) > MAX_COLUMN_BYTES:
            raise TooManyPreferences("tooManyPreferences")
        return text


def mute_key(thread: str) -> str:
    return hash_of(thread)[:16]


@lru_cache(maxsize=4096)
def decode_preferences(text: str) -> Preferences:
    """Return the preferences of `Preferences.encode`, or the defaults for ""; fields of a newer version are ignored."""
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


def _limited(values: Mapping[str, T], kind: str) -> Mapping[str, T]:
    if len(values) > MAX_ENTRIES:
        raise TooManyPreferences(f"tooMany.{kind}", count=MAX_ENTRIES)
    return values
