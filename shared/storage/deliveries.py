"""Table Deliveries: one row for each recipient of a notification, and in each partition a row that counts them.

The counts of all states always sum to the recipients listed so far (`shared.storage.delivery_counts`). Herald's own
messages have one recipient each: their partition (`SINGLE_SHARD`) holds one row and no counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from shared import keys
from shared.concurrency import gather_limited
from shared.queue_messages import Delivery
from shared.records import DeliveryRecord
from shared.states import OPEN, DeliveryState, Reason
from shared.storage.delivery_counts import COUNTS, MAX_BATCH, SINGLE_SHARD, CountedPartitions
from shared.storage.entity_writes import Row
from shared.storage.table import Conflict, Table, etag_of

VERSION = 1
#: Seconds for which a process that sends may keep a delivery to itself: three times the longest request.
CLAIM_SECONDS = 90
#: From this many recipients on, the deliveries of a notification lie in 16 partitions instead of one.
SHARDED_FROM = 1000
#: An expansion reads the range of a partition in which its recipients lie, while that holds at most so many rows
#: (or so many times those it looks for); beyond that it reads them one by one.
MAX_RANGE_ROWS = 200
RANGE_FACTOR = 4
#: How often an insert is tried again when others insert into the same partition at the same moment.
MAX_CONFLICTS = 20

#: Never taken back: once a request may have arrived, it may have.
_TWICE = {"maybe_twice": True}


class Deliveries:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._partitions = CountedPartitions(table)

    async def add(
        self, notification: str, shard: str, recipients: Mapping[str, int], now: datetime, *, fresh: bool = False
    ) -> list[Delivery]:
        """Add a row for each recipient that has none, and return a message for each delivery that is not final.

        `recipients` maps each recipient to its `DeliveryRecord.recipient_index`. With `fresh` the partition is taken to
        be empty, and is read only if that turns out to be wrong.
        """
        partition, wanted = _partition(notification, shard), {keys.key(each): each for each in recipients}
        for attempt in range(MAX_CONFLICTS):
            first = fresh and attempt == 0
            present = {} if first else await self._present(partition, wanted)
            missing = [key for key in sorted(wanted) if key not in present]
            try:
                for start in range(0, len(missing), MAX_BATCH):
                    part = missing[start : start + MAX_BATCH]
                    rows = [_new(partition, key, wanted[key], recipients[wanted[key]], now) for key in part]
                    etags = await self._partitions.add(partition, rows, fresh=first and start == 0)
                    fresh_ones = (DeliveryRecord(state=DeliveryState.QUEUED, attempts=0, etag=etag) for etag in etags)
                    present |= dict(zip(part, fresh_ones, strict=True))
            except Conflict:
                continue
            found = ((wanted[key], state) for key, state in present.items() if key in wanted)
            return [
                _message(notification, shard, recipient, state) for recipient, state in found if not state.state.final
            ]
        raise Conflict

    async def get(self, message: Delivery) -> DeliveryRecord | None:
        """How far the delivery is that `message` names, or None."""
        found = await self._table.get(_partition(message.notification, message.shard), keys.key(message.recipient))
        return _state(*found) if found else None

    async def claim(self, message: Delivery, known: DeliveryRecord, now: datetime) -> str:
        """Claim it for `CLAIM_SECONDS` and one more attempt; returns the ETag, or raises `Conflict`."""
        claim = uuid4().hex
        row = _where(message) | {
            "state": str(DeliveryState.SENDING),
            "attempts": known.attempts + 1,
            "claim": claim,
            "claimed_until": now + timedelta(seconds=CLAIM_SECONDS),
            "updated": now,
        }
        row |= {} if known.attempts else {"since": now}
        row |= _TWICE if known.maybe_twice else {}
        try:
            etag, _ = await self._partitions.change(row, known.etag, known.state, DeliveryState.SENDING)
            return etag
        except Conflict:
            # Maybe with ourselves: the write happened, its answer was lost, and the SDK wrote again.
            found = await self._table.get(str(row["PartitionKey"]), str(row["RowKey"]), select=["claim", "Timestamp"])
            if found is None or found[0].get("claim") != claim:
                raise
            return found[1]

    async def put_off(
        self,
        message: Delivery,
        etag: str,
        reason: Reason | None,
        *,
        not_before: datetime,
        now: datetime,
        attempts: int | None = None,
        maybe_twice: bool = False,
        rule: str = "",
    ) -> str:
        """Let one wait that is not finished, until `not_before`; returns the ETag, or raises `Conflict`.

        Without `attempts` it has as many as before.
        """
        row = _where(message) | {
            "state": str(DeliveryState.QUEUED),
            "reason": str(reason or ""),
            "not_before": not_before,
            "rule": rule,
            "updated": now,
        }
        row |= {} if attempts is None else {"attempts": attempts}
        row |= _TWICE if maybe_twice else {}
        written, _ = await self._partitions.change(row, etag, DeliveryState.SENDING, DeliveryState.QUEUED)
        return written

    async def settle(
        self,
        message: Delivery,
        etag: str,
        state: DeliveryState,
        *,
        now: datetime,
        previous: DeliveryState = DeliveryState.SENDING,
        reason: Reason | None = None,
        activity_id: str = "",
        conversation_id: str = "",
        revision: int = 0,
        maybe_twice: bool = False,
        rule: str = "",
    ) -> bool:
        """Write the state and count it; return whether this ended the last open delivery of its partition.

        `previous` tells how the delivery was counted: any state that is not final stands for all of these. Raises
        `Conflict` if the row has another ETag.
        """
        told = {
            "activity_id": activity_id, "conversation_id": conversation_id, "revision": revision, "rule": rule
        }  # fmt: skip
        row = _where(message) | {"state": str(state), "reason": str(reason or ""), "updated": now}
        row |= {name: value for name, value in told.items() if value} | (_TWICE if maybe_twice else {})
        _, last = await self._partitions.change(row, etag, previous, state)
        return last

    async def reopen(self, message: Delivery, known: DeliveryRecord, now: datetime) -> None:
        """Let one that has ended be tried again from now on, as long as a new one; raises `Conflict`."""
        row = _where(message) | {"state": str(DeliveryState.QUEUED), "reason": "", "rule": ""}
        row |= {"since": now, "not_before": now, "updated": now}
        row |= _TWICE if known.state is DeliveryState.UNKNOWN else {}
        await self._partitions.change(row, known.etag, known.state, DeliveryState.QUEUED)

    async def revise(self, message: Delivery, etag: str, revision: int) -> None:
        """Note that what was sent shows this revision now; raises `Conflict`."""
        await self._table.merge(_where(message) | {"revision": revision}, etag)

    async def page(
        self, notification: str, shard: str, after: str, limit: int
    ) -> Sequence[tuple[Delivery, DeliveryRecord]]:
        """The first `limit` deliveries of a partition whose row key is above `after`, as messages, in that order."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @after and RowKey lt @counts",
            {"partition": _partition(notification, shard), "after": after, "counts": COUNTS},
            limit=limit,
        )
        found = []
        for row in rows:
            state = _state(row, etag_of(row))
            recipient = row.get("recipient") or keys.unkey(row["RowKey"])
            found.append((_message(notification, shard, recipient, state), state))
        return found

    async def counts(self, notification: str, shards: int) -> Counter[str]:
        """How many deliveries are `open`, and how many in each final state."""
        found = await asyncio.gather(
            *(self._partitions.counts(_partition(notification, shard)) for shard in shard_names(shards))
        )
        return sum(found, Counter())

    async def final_counts(self, notification: str, shards: int) -> Counter[str] | None:
        """Return how many deliveries are in each final state, or None while any delivery is open.

        Partitions are read one after another, up to the first that has an open delivery.
        """
        counts = Counter[str]()
        # From the last one: an expansion fills the partitions in order, so the last one usually ends last.
        for shard in reversed(shard_names(shards)):
            counts += await self._partitions.counts(_partition(notification, shard))
            if counts[OPEN]:
                return None
        return counts

    async def _present(self, partition: str, wanted: Mapping[str, str]) -> dict[str, DeliveryRecord]:
        """The rows there are of `wanted`, and maybe others that lie between them."""
        limit = max(MAX_RANGE_ROWS, RANGE_FACTOR * len(wanted))
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey ge @first and RowKey le @last",
            {"partition": partition, "first": min(wanted), "last": max(wanted)},
            limit=limit,
        )
        if len(rows) < limit:
            return {row["RowKey"]: _state(row, etag_of(row)) for row in rows}
        found = await gather_limited(list(wanted), lambda key: self._table.get(partition, key))
        return {key: _state(*row) for key, row in zip(wanted, found, strict=True) if row}


def shard_names(shards: int) -> Sequence[str]:
    """Return the names of the partitions that hold a notification's deliveries: 16, one, or for 0 `SINGLE_SHARD`."""
    return "0123456789abcdef" if shards > 1 else "0" if shards else SINGLE_SHARD


def shard_of(recipient: str, shards: int) -> str:
    """The partition of a recipient `u:...` or `c:...`; people lie as in Conversations, so that a page is a range."""
    return keys.shard(recipient[2:]) if shards > 1 else shard_names(shards)[0]


def _partition(notification: str, shard: str) -> str:
    return f"{notification};{shard}"


def _message(notification: str, shard: str, recipient: str, state: DeliveryRecord) -> Delivery:
    """The message that asks for a delivery. It has the ETag only of a row that was never tried: whoever finds that
    ETag still good then knows the row, and nobody takes the claim of another, or comes before the next try is due."""
    untried = state.state is DeliveryState.QUEUED and not state.attempts and state.not_before is None
    return Delivery(notification, shard, recipient, state.etag if untried else "", state.attempts)


def _new(partition: str, key: str, recipient: str, recipient_index: int, now: datetime) -> Row:
    blank = {
        "v": VERSION,
        "state": str(DeliveryState.QUEUED),
        "attempts": 0,
        "created": now,
        "recipient_index": recipient_index,
    }
    return {"PartitionKey": partition, "RowKey": key, **blank, **_readable(key, recipient)}


def _where(message: Delivery) -> dict[str, object]:
    return {
        "PartitionKey": _partition(message.notification, message.shard),
        "RowKey": keys.key(message.recipient),
    }


def _state(row: Row, etag: str) -> DeliveryRecord:
    return DeliveryRecord(
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        etag=etag,
        since=row.get("since"),
        maybe_twice=row.get("maybe_twice", False),
        claimed_until=row.get("claimed_until"),
        not_before=row.get("not_before"),
        reason=row.get("reason", ""),
        activity_id=row.get("activity_id", ""),
        conversation_id=row.get("conversation_id", ""),
        revision=row.get("revision", 0),
        recipient_index=row.get("recipient_index", 0),
        rule=row.get("rule", ""),
    )


def _readable(key: str, recipient: str) -> dict[str, str]:
    return {} if keys.unkey(key) == recipient else {"recipient": recipient}
