"""Durations in the .NET format `[d.]hh:mm[:ss[.fffffff]]`, which host.json and timer intervals use."""

from __future__ import annotations

import re
from datetime import timedelta

_FORMAT = re.compile(r"(?:(\d{1,8})\.)?([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,7}))?)?")


def parse_timespan(text: str) -> timedelta:
    """Return the duration in `text`, such as `00:00:30` or `1.12:00:00`; raises `ValueError` for another format."""
    match = _FORMAT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: use hh:mm:ss")
    days, hours, minutes, seconds, fraction = match.groups(default="0")
    return timedelta(
        days=int(days),
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        microseconds=int(fraction.ljust(7, "0")) // 10,
    )
