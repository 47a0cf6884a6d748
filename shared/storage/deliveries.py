"""Table Deliveries: one row for each recipient of a notification, and in each partition a row with the counts.

The counts of all states always sum to the recipients listed so far (`shared.storage.delivery_counts`). A notification
to a few recipients has a partition (`FEW_SHARD`) without counts. A delivery there may get its row as late as its claim.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from azure.core.exceptions import AzureError

from shared import keys
from shared.concurrency import gather_limited
from shared.queue_messages import Delivery
from shared.records import DeliveryRecord
from shared.states import OPEN, DeliveryState, Reason
from shared.storage.delivery_counts import COUNTS, FEW_SHARD, MAX_BATCH, CountedPartitions
from shared.storage.entity_writes import Row
from shared.storage.outages import OUTAGE_SECONDS, outlast_faults
from shared.storage.table import Conflict, Table, etag_of

VERSION = 1
#: Duration of a claim: three times the longest request to Teams.
CLAIM_SECONDS = 90
#: With at least this many recipients, the deliveries of a notification are spread over 16 partitions.
SHARDED_FROM = 1000
#: `Deliveries.add` looks for existing rows with one range query of at most this many rows, or this many times the
#: recipients it adds. If the range has more rows, it reads each recipient's row.
MAX_RANGE_ROWS = 200
RANGE_FACTOR = 4
#: Attempts to insert while other workers insert into the same partition.
MAX_CONFLICTS = 20

#: Set once an earlier request may have arrived, and never reset.
_MAYBE_TWICE = {"maybe_twice": True}


class Deliveries:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._partitions = CountedPartitions(table)

    async def add(
        self, notification: str, shard: str, recipients: Mapping[str, int], now: datetime, *, fresh: bool = False
    ) -> list[Delivery]:
        """Add a row for each recipient that has none, and return a message for each delivery that is not final.

        `recipients` maps each recipient to its `DeliveryRecord.recipient_index`. With `fresh` the partition is assumed
        to be empty, and is only read if it is not.
        """
        partition, by_key = _partition(notification, shard), {keys.key(each): each for each in recipients}
        for attempt in range(MAX_CONFLICTS):
            first = fresh and attempt == 0
            records = {} if first else await self._existing(partition, by_key)
            missing = [key for key in sorted(by_key) if key not in records]
            try:
                for start in range(0, len(missing), MAX_BATCH):
                    part = missing[start : start + MAX_BATCH]
                    rows = [_new_row(partition, key, by_key[key], recipients[by_key[key]], now) for key in part]
                    etags = await self._partitions.add(partition, rows, fresh=first and start == 0)
                    added = (DeliveryRecord(state=DeliveryState.QUEUED, attempts=0, etag=etag) for etag in etags)
                    records |= dict(zip(part, added, strict=True))
            except Conflict:
                continue
            return [
                _message(notification, shard, by_key[key], record)
                for key, record in records.items()
                if key in by_key and not record.state.final
            ]
        raise Conflict

    async def get(self, message: Delivery) -> DeliveryRecord | None:
        """Return the delivery that `message` names, or None."""
        found = await self._table.get(_partition(message.notification, message.shard), keys.key(message.recipient))
        return _record(*found) if found else None

    async def claim(
        self, message: Delivery, known: DeliveryRecord, now: datetime, outage_seconds: float = OUTAGE_SECONDS
    ) -> str:
        """Claim the delivery for `CLAIM_SECONDS` and one more attempt; return the ETag, or raise `Conflict`.

        After a fault of the storage this returns only when it is known whether the delivery is claimed, which may be
        too late to use the claim; it waits for that at most `outage_seconds`.
        """
        claim = uuid4().hex
        row = _changed_row(message, known.etag, known.recipient_index, now) | {
            "state": str(DeliveryState.SENDING),
            "attempts": known.attempts + 1,
            "claim": claim,
            "claimed_until": now + timedelta(seconds=CLAIM_SECONDS),
            "updated": now,
        }
        row |= {} if known.attempts else {"since": now}
        row |= _MAYBE_TWICE if known.maybe_twice else {}
        row |= {"unknown_outcomes": known.unknown_outcomes} if known.unknown_outcomes else {}
        try:
            etag, _ = await self._partitions.change(row, known.etag, known.state, DeliveryState.SENDING)
            return etag
        except (Conflict, AzureError):
            # The write may be ours: its answer was lost. If the SDK repeated the request, it met that write.
            keys_of_row = str(row["PartitionKey"]), str(row["RowKey"])
            found = await outlast_faults(
                lambda: self._table.get(*keys_of_row, select=["claim", "Timestamp"]), outage_seconds
            )
            if found is None or found[0].get("claim") != claim:
                raise
            return found[1]

    async def defer(
        self,
        message: Delivery,
        etag: str,
        reason: Reason | None,
        *,
        not_before: datetime,
        now: datetime,
        recipient_index: int = 0,
        attempts: int | None = None,
        maybe_twice: bool = False,
        unknown_outcomes: int = 0,
        rule: str = "",
    ) -> str:
        """Requeue a delivery that is not final until `not_before`; return the ETag, or raise `Conflict`.

        With the ETag "" the row is inserted, with `recipient_index`. Without `attempts` or `unknown_outcomes`, their
        numbers do not change.
        """
        row = _changed_row(message, etag, recipient_index, now) | {
            "state": str(DeliveryState.QUEUED),
            "reason": str(reason or ""),
            "not_before": not_before,
            "rule": rule,
            "updated": now,
        }
        row |= {} if attempts is None else {"attempts": attempts}
        row |= _MAYBE_TWICE if maybe_twice else {}
        row |= {"unknown_outcomes": unknown_outcomes} if unknown_outcomes else {}
        written, _ = await self._partitions.change(row, etag, DeliveryState.SENDING, DeliveryState.QUEUED)
        return written

    async def settle(
        self,
        message: Delivery,
        etag: str,
        state: DeliveryState,
        *,
        now: datetime,
        recipient_index: int = 0,
        previous: DeliveryState = DeliveryState.SENDING,
        reason: Reason | None = None,
        activity_id: str = "",
        conversation_id: str = "",
        revision: int = 0,
        maybe_twice: bool = False,
        rule: str = "",
    ) -> bool:
        """Write the state and count it; return whether this ended the last open delivery of its partition.

        `etag` and `recipient_index` are as in `defer`. `previous` tells how the delivery was counted: any state that is
        not final stands for all of these. Raises `Conflict` if the row has another ETag.
        """
        details = {
            "activity_id": activity_id, "conversation_id": conversation_id, "revision": revision, "rule": rule
        }  # fmt: skip
        row = _changed_row(message, etag, recipient_index, now)
        row |= {"state": str(state), "reason": str(reason or ""), "updated": now}
        row |= {name: value for name, value in details.items() if value} | (_MAYBE_TWICE if maybe_twice else {})
        _, last = await self._partitions.change(row, etag, previous, state)
        return last

    async def reopen(self, message: Delivery, known: DeliveryRecord, now: datetime) -> None:
        """Requeue a delivery that has ended, with the retry time of a new one; raise `Conflict`."""
        row = _key_columns(message) | {"state": str(DeliveryState.QUEUED), "reason": "", "rule": ""}
        row |= {"since": now, "not_before": now, "updated": now, "unknown_outcomes": 0}
        row |= _MAYBE_TWICE if known.state is DeliveryState.UNKNOWN else {}
        await self._partitions.change(row, known.etag, known.state, DeliveryState.QUEUED)

    async def revise(self, message: Delivery, known: DeliveryRecord, revision: int) -> None:
        """Record that the sent message now shows this revision; raise `Conflict`."""
        await self._record_change(message, known, known.state, {"revision": revision})

    async def recall(self, message: Delivery, known: DeliveryRecord, now: datetime) -> None:
        """Record that the sent message was deleted; raise `Conflict`."""
        await self._record_change(message, known, DeliveryState.RECALLED, {"reason": "", "updated": now})

    async def _record_change(
        self, message: Delivery, known: DeliveryRecord, state: DeliveryState, columns: Mapping[str, object]
    ) -> None:
        row = _key_columns(message) | {"state": str(state), "refused_change": "", "change_reason": "", **columns}
        await self._partitions.change(row, known.etag, known.state, state, refused=-bool(known.refused_change))

    async def refuse_change(self, message: Delivery, known: DeliveryRecord, reason: Reason) -> None:
        """Record why the task of `message`, an edit or recall, did not change the sent message; raise `Conflict`."""
        row = _key_columns(message) | {"refused_change": str(message.task), "change_reason": str(reason)}
        refused = 0 if known.refused_change else 1
        await self._partitions.change(row, known.etag, known.state, known.state, refused=refused)

    async def page(
        self, notification: str, shard: str, after: str, limit: int, *, only_open: bool = False
    ) -> Sequence[tuple[Delivery, DeliveryRecord]]:
        """Return the first `limit` deliveries of a partition whose row key is above `after`, ordered by row key.

        With `only_open`, deliveries in a final state are left out, and not read.
        """
        where = "PartitionKey eq @partition and RowKey gt @after and RowKey lt @counts"
        values = {"partition": _partition(notification, shard), "after": after, "counts": COUNTS}
        if only_open:
            where += " and ( state eq @queued or state eq @sending )"
            values |= {"queued": str(DeliveryState.QUEUED), "sending": str(DeliveryState.SENDING)}
        rows = await self._table.query(where, values, limit=limit)
        found = []
        for row in rows:
            record = _record(row, etag_of(row))
            recipient = row.get("recipient") or keys.unkey(row["RowKey"])
            found.append((_message(notification, shard, recipient, record), record))
        return found

    async def counts(self, notification: str, shards: int) -> Counter[str]:
        """Return how many deliveries are `open`, and how many are in each final state."""
        return (await self.counts_and_refused(notification, shards))[0]

    async def counts_and_refused(self, notification: str, shards: int) -> tuple[Counter[str], int]:
        """Return the counts, and the number of deliveries whose edit or recall was refused."""
        found = await asyncio.gather(
            *(self._partitions.counts_and_refused(_partition(notification, shard)) for shard in shard_names(shards))
        )
        return sum((counts for counts, _ in found), Counter()), sum(refused for _, refused in found)

    async def final_counts(self, notification: str, shards: int) -> tuple[Counter[str], int] | None:
        """Return how many deliveries are in each final state, or None while any delivery is open.

        With the counts comes the number of deliveries whose edit or recall was refused. Partitions are read one after
        another, up to the first that has an open delivery.
        """
        counts, refused = Counter[str](), 0
        # First those that this process believes to be open, and else from the last one: an expansion fills the
        # partitions in order, so the last one usually ends last.
        partitions = [_partition(notification, shard) for shard in reversed(shard_names(shards))]
        for partition in sorted(partitions, key=self._partitions.is_believed_open, reverse=True):
            of_shard, refused_of_shard = await self._partitions.counts_and_refused(partition)
            if of_shard[OPEN]:
                return None
            counts, refused = counts + of_shard, refused + refused_of_shard
        return counts, refused

    async def first_open_shard(self, notification: str, shards: Sequence[str]) -> str | None:
        """Return the first of these partitions that has an open delivery, or None; read no counts after it."""
        for shard in shards:
            if (await self._partitions.counts(_partition(notification, shard)))[OPEN]:
                return shard
        return None

    async def _existing(self, partition: str, by_key: Mapping[str, str]) -> dict[str, DeliveryRecord]:
        """Return the rows with these row keys that exist, and maybe others between them."""
        limit = max(MAX_RANGE_ROWS, RANGE_FACTOR * len(by_key))
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey ge @first and RowKey le @last",
            {"partition": partition, "first": min(by_key), "last": max(by_key)},
            limit=limit,
        )
        if len(rows) < limit:
            return {row["RowKey"]: _record(row, etag_of(row)) for row in rows}
        found = await gather_limited(list(by_key), lambda key: self._table.get(partition, key))
        return {key: _record(*row) for key, row in zip(by_key, found, strict=True) if row}


def shard_names(shards: int) -> Sequence[str]:
    """Return the names of the partitions of a notification's deliveries: 16, one, or for 0 `FEW_SHARD`."""
    return "0123456789abcdef" if shards > 1 else "0" if shards else FEW_SHARD


def shard_of(recipient: str, shards: int) -> str:
    """Return the partition of a recipient `u:...` or `c:...`.

    People are sharded as in table Conversations, so that a page of an audience is a range of one partition.
    """
    return keys.shard(recipient[2:]) if shards > 1 else shard_names(shards)[0]


def _partition(notification: str, shard: str) -> str:
    return f"{notification};{shard}"


def _message(notification: str, shard: str, recipient: str, record: DeliveryRecord) -> Delivery:
    """Return the message for a delivery, with the ETag only if the delivery was never attempted.

    A worker claims with that ETag without reading the row. Any other row must be read, so that no worker takes over a
    claim that is valid, or attempts before `not_before`.
    """
    untried = record.state is DeliveryState.QUEUED and not record.attempts and record.not_before is None
    return Delivery(notification, shard, recipient, record.etag if untried else "", record.attempts)


def _new_row(partition: str, key: str, recipient: str, recipient_index: int, now: datetime) -> dict[str, object]:
    return {
        "PartitionKey": partition,
        "RowKey": key,
        "v": VERSION,
        "state": str(DeliveryState.QUEUED),
        "attempts": 0,
        "created": now,
        "recipient_index": recipient_index,
        **_recipient_column(key, recipient),
    }


def _changed_row(message: Delivery, etag: str, recipient_index: int, now: datetime) -> dict[str, object]:
    """Return the keys of a row that has this ETag, or with the ETag "" all columns of a new row."""
    if etag:
        return _key_columns(message)
    partition, key = _partition(message.notification, message.shard), keys.key(message.recipient)
    return _new_row(partition, key, message.recipient, recipient_index, now)


def _key_columns(message: Delivery) -> dict[str, object]:
    return {
        "PartitionKey": _partition(message.notification, message.shard),
        "RowKey": keys.key(message.recipient),
    }


def _record(row: Row, etag: str) -> DeliveryRecord:
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
        unknown_outcomes=row.get("unknown_outcomes", 0),
        refused_change=row.get("refused_change", ""),
        change_reason=row.get("change_reason", ""),
    )


def _recipient_column(key: str, recipient: str) -> dict[str, str]:
    """Return the column that is only needed where the recipient cannot be decoded from the row key."""
    return {} if keys.unkey(key) == recipient else {"recipient": recipient}
