"""Evaluate a recipient's preferences for one notification at one moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from shared.preferences.categories import Category
from shared.preferences.digest_schedule import DigestRule
from shared.preferences.preferences import FOREVER, Preferences
from shared.preferences.quiet_hours import QuietHours
from shared.states import Mode, Rule

if TYPE_CHECKING:
    pass

digest_rule = lru_cache(maxsize=1024)(DigestRule.parse)
_quiet_hours = lru_cache(maxsize=1024)(QuietHours.parse)


def evaluate(
    preferences: Preferences, category: Category, thread: str, *, now: datetime, zone: ZoneInfo, digest: str
) -> tuple[Rule, datetime | None]:
    """The first wish that stands against sending it, and until when it is held; `Rule.SEND` where none does.

    `thread` is the key of its thread, "" for none, and `digest` the rule of digests for people who chose none.
    """
    mode = preferences.mode(category)
    if mode is Mode.OFF:
        return Rule.OPTED_OUT, None
    if not category.mandatory:
        if preferences.paused_until and preferences.paused_until > now:
            return Rule.PAUSED, preferences.paused_until
        muted = preferences.muted_until(thread) if thread else None
        if muted and muted > now:
            return Rule.MUTED, muted
    if not category.bypasses_quiet_hours and (end := quiet_until(preferences, now, zone)):
        return Rule.QUIET_HOURS, end
    if mode is Mode.DIGEST and (slot := digest_rule(preferences.digest or digest).following(now, zone, None)):
        return Rule.DIGEST, slot.at
    return Rule.SEND, None


def evaluate_digest(preferences: Preferences, now: datetime, zone: ZoneInfo) -> tuple[Rule, datetime | None]:
    """The same for a digest as a whole when it is sent: only its reader's stop, pause and quiet hours apply."""
    if preferences.stopped:
        return Rule.OPTED_OUT, None
    if preferences.paused_until and preferences.paused_until > now:
        return Rule.PAUSED, preferences.paused_until
    if end := quiet_until(preferences, now, zone):
        return Rule.QUIET_HOURS, end
    return Rule.ASKED, None


def without_holds(preferences: Preferences) -> Preferences:
    """Return the preferences without pause and quiet hours."""
    return replace(preferences, quiet="", paused_until=None)


def next_digest(
    preferences: Preferences, digest: str, now: datetime, zone: ZoneInfo, last: date | None
) -> datetime | None:
    """When the next digest comes after `now`, None where that cannot be said; `last` is the local date of the one
    before."""
    slot = digest_rule(preferences.digest or digest).following(now, zone, last)
    if slot is None or preferences.stopped or preferences.paused_until == FOREVER:
        return None
    return max(quiet_until(preferences, slot.at, zone) or slot.at, preferences.paused_until or slot.at)


def quiet_until(preferences: Preferences, now: datetime, zone: ZoneInfo) -> datetime | None:
    """When the quiet hours end in which an instant lies, or None."""
    return _quiet_until(preferences.quiet, now, zone) if preferences.quiet else None


@lru_cache(maxsize=256)
def _quiet_until(quiet: str, now: datetime, zone: ZoneInfo) -> datetime | None:
    # Of a thousand that wait for somebody, each is decided about at the same moment.
    return _quiet_hours(quiet).until(now, zone)
