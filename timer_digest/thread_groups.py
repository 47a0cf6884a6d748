"""Choose what a digest includes, on plain values: the newest state of each thread, the most urgent first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from zoneinfo import ZoneInfo

import orjson

from shared import publishing
from shared.cards.digest import Line, draw
from shared.cards.notification import activity, said
from shared.cards.size import TooLarge
from shared.contract import models, parsing
from shared.preferences.categories import Categories
from shared.queue_messages import Delivery
from shared.storage.notifications import StoredNotification


@dataclass(frozen=True, slots=True)
class DigestEntry:
    """A delivery that a digest tells, or may tell, its notification, and when its recipient's turn came, if known."""

    delivery: Delivery
    notification: StoredNotification
    since: datetime | None = None

    @property
    def at(self) -> datetime:
        """When what it tells happened."""
        return self.notification.occurred_at

    @property
    def thread(self) -> str:
        """The key of its thread, "" for none."""
        return self.notification.thread


ThreadGroup = Sequence[DigestEntry]


def stories(cases: Iterable[DigestEntry]) -> list[ThreadGroup]:
    """The cases by thread, the newest first in each; urgent threads first, then those with the newest."""
    found = by_thread(sorted(cases, key=lambda each: (each.at, each.notification.created), reverse=True))
    return sorted(found, key=lambda story: not _urgent(story))


def by_thread(cases: Iterable[DigestEntry]) -> list[ThreadGroup]:
    """The cases by thread, in their order."""
    threads: dict[tuple[str, str, str], list[DigestEntry]] = {}
    for case in cases:
        alone = "" if case.thread else case.notification.key
        threads.setdefault((case.delivery.recipient, case.thread, alone), []).append(case)
    return list(threads.values())


def limited(included: Iterable[ThreadGroup], most: int) -> tuple[list[ThreadGroup], int]:
    """The `most` newest of each story, and how many of the first stories are at most so many together."""
    cut = [story[:most] for story in included]
    return cut, sum(so_far <= most for so_far in accumulate(map(len, cut)))


def compose(
    included: Sequence[ThreadGroup],
    recipient: str,
    zone: ZoneInfo,
    language: str,
    more: int | None,
    *,
    held: bool,
    categories: Categories,
    limit: int,
) -> tuple[int, int | None, bytes]:
    """How many of the first stories fit on a card of `limit` bytes, how many deliveries it says that it leaves to the
    next, and the digest, as a notification's `data`.

    Times are those of `zone`, and `language` is the language. `more` deliveries wait for the next digest anyway; with
    None nothing is said of what is left. `held` is as in `shared.cards.digest.draw`.
    """
    lines = [_line(story, categories) for story in included]

    def left(count: int) -> int | None:
        return None if more is None else more + sum(map(len, included[count:]))

    def data(count: int) -> bytes:
        who = {"user": recipient[2:]} if recipient.startswith("u:") else {"conversation": recipient[2:]}
        whole = {
            "recipients": [who],
            "category": publishing.CATEGORY,
            "card": draw(lines[:count], zone, language, left(count) or 0, held=held),
        }
        return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)

    def too_large(count: int) -> bool:
        drawn = data(count)
        try:
            activity(parsing.parse_stored(drawn), limit)
        except TooLarge:
            return True
        return len(drawn) > parsing.MAX_DATA_BYTES

    # The first alone takes 8 KB at most.
    count = len(included)
    if too_large(count):
        count = bisect_left(range(2, count), True, key=too_large) + 1
    return count, left(count), data(count)


def _urgent(story: ThreadGroup) -> bool:
    return any(case.notification.urgent for case in story)


def _line(story: ThreadGroup, categories: Categories) -> Line:
    newest = story[0]
    content = newest.notification.content
    drawn, own = content.content, content.schedule and content.schedule.time_zone == models.RECIPIENT
    return Line(
        category=categories.of(content.category).label,
        title=drawn.title if drawn else said(content.card or {}) or content.category,
        detail=(drawn.result or drawn.text) if drawn else "",
        link=drawn.link.url if drawn and drawn.link else "",
        at=newest.since if own and newest.since else newest.at,
        urgent=_urgent(story),
        times=len(story),
    )
