"""Evaluate a recipient's preferences for one notification at one instant."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from shared.preferences.categories import Category
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.preferences import FOREVER, Preferences
from shared.preferences.quiet_hours import QuietHours
from shared.states import Mode, Rule

parse_digest_schedule = lru_cache(maxsize=1024)(DigestSchedule.parse)
_quiet_hours = lru_cache(maxsize=1024)(QuietHours.parse)


def evaluate(
    preferences: Preferences, category: Category, thread: str, *, now: datetime, zone: ZoneInfo, digest: str
) -> tuple[Rule, datetime | None]:
    """Return the first rule that keeps a notification from being sent now, and until when; else `Rule.SEND`.

    `thread` is its thread key, "" for none, and `digest` the digest schedule of people who chose none.
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
    if mode is Mode.DIGEST and (due := parse_digest_schedule(preferences.digest or digest).next_time(now, zone, None)):
        return Rule.DIGEST, due.at
    return Rule.SEND, None


def evaluate_digest(preferences: Preferences, now: datetime, zone: ZoneInfo) -> tuple[Rule, datetime | None]:
    """Return the rule for a digest as a whole when it is sent: only its reader's stop, pause and quiet hours apply."""
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
    """Return when the next digest is sent after `now`, or None; `last` is the local date of the previous one."""
    due = parse_digest_schedule(preferences.digest or digest).next_time(now, zone, last)
    if due is None or preferences.stopped or preferences.paused_until == FOREVER:
        return None
    return max(quiet_until(preferences, due.at, zone) or due.at, preferences.paused_until or due.at)


def quiet_until(preferences: Preferences, now: datetime, zone: ZoneInfo) -> datetime | None:
    """Return when the quiet hours end that apply at `now`, or None."""
    return _quiet_until(preferences.quiet, now, zone) if preferences.quiet else None


@lru_cache(maxsize=256)
def _quiet_until(quiet: str, now: datetime, zone: ZoneInfo) -> datetime | None:
    # Up to a thousand held deliveries of a recipient are evaluated at the same instant.
    return _quiet_hours(quiet).find_end(now, zone)
