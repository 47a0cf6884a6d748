"""Compose the card of a digest: as many groups as fit, and how many deliveries are left for the next one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import orjson

from shared import publishing
from shared.cards.digest import DigestLine, draw_digest_card
from shared.cards.mentions import without_mentions
from shared.cards.notification import card_summary, render_activity
from shared.cards.size import TooLarge
from shared.contract import models, parsing
from timer_digest.thread_groups import ThreadGroup, is_urgent


def compose(
    groups: Sequence[ThreadGroup],
    recipient: str,
    zone: ZoneInfo,
    language: str,
    more: int | None,
    *,
    held: bool,
    limit: int,
) -> tuple[int, int | None, bytes]:
    """Return how many of the first groups fit on a card of `limit` bytes, how many deliveries are left for the next
    digest, and the digest as the `data` of a notification.

    A person sees times in `zone`, and each reader in a conversation sees their own. `more` deliveries are left besides
    these groups; with None the card does not say how many are. `held` is as in `shared.cards.digest.draw_digest_card`.
    """
    lines = [_line(group) for group in groups]
    own_zone = zone if recipient.startswith("u:") else None

    def left(count: int) -> int | None:
        return None if more is None else more + sum(map(len, groups[count:]))

    def data(count: int) -> bytes:
        target = {"user": recipient[2:]} if recipient.startswith("u:") else {"conversation": recipient[2:]}
        whole = {
            "recipients": [target],
            "category": publishing.CATEGORY,
            "card": draw_digest_card(lines[:count], own_zone, language, left(count) or 0, held=held),
        }
        return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)

    def is_too_large(count: int) -> bool:
        encoded = data(count)
        try:
            render_activity(parsing.parse_stored(encoded), limit)
        except TooLarge:
            return True
        return len(encoded) > parsing.MAX_DATA_BYTES

    count = len(groups)
    if is_too_large(count):  # one line alone takes at most 8 KB and fits
        count = bisect_left(range(2, count), True, key=is_too_large) + 1
    return count, left(count), data(count)


def _line(group: ThreadGroup) -> DigestLine:
    newest = group[0]
    content = newest.notification.content
    text, own_time = content.content, content.schedule and content.schedule.time_zone == models.RECIPIENT
    return DigestLine(
        category=newest.category.label,
        title=without_mentions(text.title, text.mentions)
        if text
        else card_summary(content.card or {}) or content.category,
        detail=without_mentions(text.result or text.text, text.mentions) if text else "",
        link=text.all_links[0].url if text and text.all_links else "",
        at=newest.eligible_since if own_time and newest.eligible_since else newest.at,
        urgent=is_urgent(group),
        times=len(group),
    )
