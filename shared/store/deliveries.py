"""Table Deliveries: one row for each recipient of a notification, and in each partition a row that counts them.

The count changes in the same entity group transaction as a state, so that the states of a notification always
sum to the recipients listed so far. Changes of one partition are written together: while one transaction is
under way, what comes in meanwhile waits for the next. What Herald itself says has one recipient: its partition
(`ALONE`) is one row, and nothing is counted there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import uuid4

from shared.queues import Delivery
from shared.states import OPEN, DeliveryState, Reason
from shared.store import keys
from shared.store.table import BATCH, Conflict, Operation, Row, Table, etag_of
from shared.together import together

VERSION = 1
#: Seconds for which a process that sends may keep a delivery to itself: three times the longest request.
CLAIM_SECONDS = 90
#: The partition of the only delivery of what Herald itself says: in that nothing is counted.
ALONE = "x"
#: From this many recipients on, the deliveries of a notification lie in 16 partitions instead of one.
SHARDED_FROM = 1000
#: An expansion reads the range of a partition in which its recipients lie, while that holds at most so many rows
#: (or so many times those it looks for); beyond that it reads them one by one.
LONGEST_RANGE = 200
RANGE_FACTOR = 4
#: How often an insert is tried again when others insert into the same partition at the same moment.
TRIES = 20
#: Partitions whose counts are kept in memory.
REMEMBERED = 4096

_COUNTS = "~counts"
#: Never taken back: once a request may have arrived, it may have.
_TWICE = {"maybe_twice": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far one delivery is.

    `attempts` counts the requests that were sent or begun, the first of them at `since`. `maybe_twice` says that an
    earlier request may have arrived. `not_before` is when the next try is due, `claimed_until` when the claim of a
    sender ends. What was sent is the activity `activity_id` of `conversation_id`, with the content of `revision`.
    `via` is which of the notification's `recipients`, by its place, led to this one; `rule` is what decided.
    """

    state: DeliveryState
    attempts: int
    etag: str
    since: datetime | None = None
    maybe_twice: bool = False
    claimed_until: datetime | None = None
    not_before: datetime | None = None
    reason: str = ""
    activity_id: str = ""
    conversation_id: str = ""
    revision: int = 0
    via: int = 0
    rule: str = ""


@dataclass(frozen=True, slots=True)
class _Change:
    """Columns of a row with this ETag; as far as counting goes it was `was`, and is `state` then.

    `done` gets the new ETag, and whether no delivery of the partition is open after it.
    """

    row: Row
    etag: str
    was: str
    state: str
    done: asyncio.Future[tuple[str, bool]]


class Deliveries:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._waiting: dict[str, list[_Change]] = {}
        #: The counts of a partition as they were written last, which saves a read where nobody else wrote since.
        self._counts: dict[str, tuple[Counter[str], str]] = {}
        self._writers: set[asyncio.Task[None]] = set()

    async def add(
        self, notification: str, shard: str, recipients: Mapping[str, int], now: datetime, *, fresh: bool = False
    ) -> list[Delivery]:
        """Add a row for each recipient that has none; returns a message for each that is not finished, new or old.

        `recipients` maps each to which of the notification's `recipients` led to it (`State.via`). `fresh` says that
        there probably is none yet, in all of the partition: it is looked only where that turns out to be wrong.
        """
        partition, wanted = _partition(notification, shard), {keys.key(each): each for each in recipients}
        for attempt in range(TRIES):
            first = fresh and attempt == 0
            present = {} if first else await self._present(partition, wanted)
            missing = [key for key in sorted(wanted) if key not in present]
            try:
                for start in range(0, len(missing), BATCH - 1):
                    uncounted = shard == ALONE or (first and start == 0)
                    counts = (Counter[str](), "") if uncounted else await self._read_counts(partition)
                    part = {key: (wanted[key], recipients[wanted[key]]) for key in missing[start : start + BATCH - 1]}
                    present |= await self._insert(partition, part, counts, now)
            except Conflict:
                continue
            found = ((wanted[key], state) for key, state in present.items() if key in wanted)
            return [
                _message(notification, shard, recipient, state) for recipient, state in found if not state.state.final
            ]
        raise Conflict

    async def get(self, message: Delivery) -> State | None:
        """How far the delivery is that `message` names, or None."""
        found = await self._table.get(_partition(message.notification, message.shard), keys.key(message.recipient))
        return _state(*found) if found else None

    async def claim(self, message: Delivery, known: State, now: datetime) -> str:
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
            etag, _ = await self._change(row, known.etag, known.state, DeliveryState.SENDING)
            return etag
        except Conflict:
            # Maybe with ourselves: the write happened, its answer was lost, and the SDK wrote again.
            found = await self._table.get(str(row["PartitionKey"]), str(row["RowKey"]), select=["claim", "Timestamp"])
            if found is None or found[0].get("claim") != claim:
                raise
            return found[1]

    async def release(
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
        written, _ = await self._change(row, etag, DeliveryState.SENDING, DeliveryState.QUEUED)
        return written

    async def settle(
        self,
        message: Delivery,
        etag: str,
        state: DeliveryState,
        *,
        now: datetime,
        was: DeliveryState = DeliveryState.SENDING,
        reason: Reason | None = None,
        activity_id: str = "",
        conversation_id: str = "",
        revision: int = 0,
        maybe_twice: bool = False,
        rule: str = "",
    ) -> bool:
        """Write a state and count it; whether no delivery of its partition is open after that.

        `was` is the state before, as far as counting goes: any that is not final is as good as another. Raises
        `Conflict` where the row is not the one of `etag` any more.
        """
        told = {
            "activity_id": activity_id, "conversation_id": conversation_id, "revision": revision, "rule": rule
        }  # fmt: skip
        row = _where(message) | {"state": str(state), "reason": str(reason or ""), "updated": now}
        row |= {name: value for name, value in told.items() if value} | (_TWICE if maybe_twice else {})
        _, last = await self._change(row, etag, was, state)
        return last

    async def reopen(self, message: Delivery, known: State, now: datetime) -> None:
        """Let one that has ended be tried again from now on, as long as a new one; raises `Conflict`."""
        row = _where(message) | {"state": str(DeliveryState.QUEUED), "reason": ""}
        row |= {"since": now, "not_before": now, "updated": now}
        row |= _TWICE if known.state is DeliveryState.UNKNOWN else {}
        await self._change(row, known.etag, known.state, DeliveryState.QUEUED)

    async def _change(self, row: Row, etag: str, was: DeliveryState, state: DeliveryState) -> tuple[str, bool]:
        """Write it with what else changes in its partition; raises `Conflict` where the row has another ETag."""
        partition = str(row["PartitionKey"])
        done: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        change = _Change(row, etag, was.counted, state.counted, done)
        if partition in self._waiting:
            self._waiting[partition].append(change)
        else:
            self._waiting[partition] = [change]
            writer = asyncio.create_task(self._write(partition))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await done

    async def revise(self, message: Delivery, etag: str, revision: int) -> None:
        """Note that what was sent shows this revision now; raises `Conflict`."""
        await self._table.merge(_where(message) | {"revision": revision}, etag)

    async def page(self, notification: str, shard: str, after: str, limit: int) -> Sequence[tuple[Delivery, State]]:
        """The first `limit` deliveries of a partition whose row key is above `after`, as messages, in that order."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @after and RowKey lt @counts",
            {"partition": _partition(notification, shard), "after": after, "counts": _COUNTS},
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
            *(self._read_counts(_partition(notification, shard)) for shard in shard_names(shards))
        )
        return sum((counted for counted, _ in found), Counter())

    async def _insert(
        self, partition: str, missing: Mapping[str, tuple[str, int]], counts: tuple[Counter[str], str], now: datetime
    ) -> dict[str, State]:
        counted, etag = counts
        counted[OPEN] += len(missing)
        blank = {"PartitionKey": partition, "v": VERSION, "state": str(DeliveryState.QUEUED), "attempts": 0}
        rows: list[tuple[Literal["create"], Row]] = [
            ("create", blank | {"RowKey": key, "created": now, "via": via, **_readable(key, recipient)})
            for key, (recipient, via) in missing.items()
        ]
        if _is_alone(partition):
            etags = [await self._table.insert(row) for _, row in rows]
        else:
            *etags, etag = await self._table.batch([*rows, _count(partition, counted, etag)])
            self._keep_counts(partition, counted, etag)
        return {
            key: State(state=DeliveryState.QUEUED, attempts=0, etag=written)
            for key, written in zip(missing, etags, strict=True)
        }

    async def _present(self, partition: str, wanted: Mapping[str, str]) -> dict[str, State]:
        """The rows there are of `wanted`, and maybe others that lie between them."""
        limit = max(LONGEST_RANGE, RANGE_FACTOR * len(wanted))
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey ge @first and RowKey le @last",
            {"partition": partition, "first": min(wanted), "last": max(wanted)},
            limit=limit,
        )
        if len(rows) < limit:
            return {row["RowKey"]: _state(row, etag_of(row)) for row in rows}
        found = await together(list(wanted), lambda key: self._table.get(partition, key))
        return {key: _state(*row) for key, row in zip(wanted, found, strict=True) if row}

    async def _read_counts(self, partition: str) -> tuple[Counter[str], str]:
        if _is_alone(partition):
            only = await self._table.query("PartitionKey eq @partition", {"partition": partition}, limit=1)
            return Counter(DeliveryState(row["state"]).counted for row in only), ""
        found = await self._table.get(partition, _COUNTS)
        if found is None:
            return Counter(), ""
        row, etag = found
        return Counter({name: row[name] for name in _COUNTED if name in row}), etag

    async def _write(self, partition: str) -> None:
        while waiting := self._waiting[partition]:
            # A transaction refuses to have a row twice: of copies that change the same delivery, the next one waits.
            first = {str(change.row["RowKey"]): change for change in reversed(waiting)}
            batch = list(first.values())[-(BATCH - 1) :]
            taken = set(map(id, batch))
            self._waiting[partition] = [change for change in waiting if id(change) not in taken]
            try:
                await self._commit(partition, batch)
            except Exception as error:  # noqa: BLE001 (each waiting delivery is told, and fails with it)
                for change in batch:
                    if not change.done.done():
                        change.done.set_exception(error)
        del self._waiting[partition]

    async def _commit(self, partition: str, batch: Sequence[_Change]) -> None:
        rows: list[Operation] = [("update", change.row, change.etag) for change in batch]
        moved = Counter(change.state for change in batch)
        moved.subtract(change.was for change in batch)
        alone = _is_alone(partition)
        counts = await self._recent_counts(partition) if any(moved.values()) and not alone else None
        while True:
            try:
                if counts:
                    after = counts[0].copy()
                    after.update(moved)
                    *etags, etag = await self._table.batch([*rows, _count(partition, after, counts[1])])
                    self._keep_counts(partition, after, etag)
                elif len(batch) > 1:
                    etags = await self._table.batch(rows)
                else:
                    etags = [await self._table.merge(batch[0].row, batch[0].etag)]
            except Conflict:
                if counts and (now := await self._read_counts(partition))[1] != counts[1]:
                    counts = now
                    continue
                # The count is as it was read, so it is one of the rows that has changed.
                if len(batch) == 1:
                    raise
                for change in batch:
                    try:
                        await self._commit(partition, [change])
                    except Conflict as conflict:
                        if not change.done.done():
                            change.done.set_exception(conflict)
                return
            all_ended = alone or (counts and not after[OPEN])
            ending = [change for change in batch if change.was == OPEN != change.state] if all_ended else []
            last = ending[-1] if ending else None
            for change, written in zip(batch, etags, strict=True):
                if not change.done.done():
                    change.done.set_result((written, change is last))
            return

    async def _recent_counts(self, partition: str) -> tuple[Counter[str], str]:
        return self._counts.get(partition) or await self._read_counts(partition)

    def _keep_counts(self, partition: str, counted: Counter[str], etag: str) -> None:
        self._counts.pop(partition, None)
        self._counts[partition] = counted, etag
        if len(self._counts) > REMEMBERED:
            self._counts.pop(next(iter(self._counts)))


_COUNTED = (OPEN, *(str(state) for state in DeliveryState if state.final))


def shard_names(shards: int) -> Sequence[str]:
    """The names of the partitions of a notification's deliveries: of 16, or of the only one; for 0 of `ALONE`."""
    return "0123456789abcdef" if shards > 1 else "0" if shards else ALONE


def shard_of(recipient: str, shards: int) -> str:
    """The partition of a recipient `u:...` or `c:...`; people lie as in Conversations, so that a page is a range."""
    return keys.shard(recipient[2:]) if shards > 1 else shard_names(shards)[0]


def _is_alone(partition: str) -> bool:
    return partition.endswith(f";{ALONE}")


def _partition(notification: str, shard: str) -> str:
    return f"{notification};{shard}"


def _message(notification: str, shard: str, recipient: str, state: State) -> Delivery:
    """The message that asks for a delivery. It has the ETag only of a row that was never tried: whoever finds that
    ETag still good then knows the row, and nobody takes the claim of another, or comes before the next try is due."""
    untried = state.state is DeliveryState.QUEUED and not state.attempts and state.not_before is None
    return Delivery(notification, shard, recipient, state.etag if untried else "", state.attempts)


def _where(message: Delivery) -> dict[str, object]:
    return {
        "PartitionKey": _partition(message.notification, message.shard),
        "RowKey": keys.key(message.recipient),
    }


def _count(partition: str, counted: Counter[str], etag: str) -> Operation:
    row = {"PartitionKey": partition, "RowKey": _COUNTS, "v": VERSION, **counted}
    return ("update", row, etag) if etag else ("create", row)


def _state(row: Row, etag: str) -> State:
    return State(
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
        via=row.get("via", 0),
        rule=row.get("rule", ""),
    )


def _readable(key: str, recipient: str) -> dict[str, str]:
    return {} if keys.unkey(key) == recipient else {"recipient": recipient}
