"""Group a digest's entries by thread: urgent groups first, the newest state of each thread first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from shared.preferences.categories import Category
from shared.queue_messages import Delivery
from shared.records import StoredNotification


@dataclass(frozen=True, slots=True)
class DigestEntry:
    """A delivery that a digest may include, its notification and category, and when it became eligible, if known."""

    delivery: Delivery
    notification: StoredNotification
    category: Category
    eligible_since: datetime | None = None

    @property
    def at(self) -> datetime:
        """When its event happened."""
        return self.notification.occurred_at

    @property
    def thread(self) -> str:
        """The thread key, "" for none."""
        return self.notification.thread


#: The entries of one thread, the newest first.
ThreadGroup = Sequence[DigestEntry]


def group_by_priority(entries: Iterable[DigestEntry]) -> list[ThreadGroup]:
    """Return the entries grouped by thread: groups with an urgent entry first, then by their newest entry."""
    newest_first = sorted(entries, key=lambda entry: (entry.at, entry.notification.created), reverse=True)
    threads: dict[tuple[str, str, str], list[DigestEntry]] = {}
    for entry in newest_first:
        own_key = "" if entry.thread else entry.notification.key  # without a thread, a group of its own
        threads.setdefault((entry.delivery.recipient, entry.thread, own_key), []).append(entry)
    return sorted(threads.values(), key=lambda group: not is_urgent(group))


def limit_groups(groups: Iterable[ThreadGroup], limit: int) -> tuple[list[ThreadGroup], int]:
    """Return each group with its `limit` newest entries, and how many of the first groups fit within it together."""
    limited = [group[:limit] for group in groups]
    return limited, sum(total <= limit for total in accumulate(map(len, limited)))


def is_urgent(group: ThreadGroup) -> bool:
    """Return whether any of its notifications is urgent."""
    return any(entry.notification.urgent for entry in group)
