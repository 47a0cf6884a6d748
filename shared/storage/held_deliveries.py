"""Table HeldDeliveries: deliveries that wait for their recipient (a pause, quiet hours, a local time, or a digest).

Each person, chat or channel has a partition: one row for each held delivery, ordered by the time of its notification,
and one row with the recipient's digest state. Deliveries to a thread are held with its channel. A row that is put again
has a new ETag, so that a worker that read it before cannot delete it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from urllib.parse import quote, unquote

from shared import keys
from shared.conversation_ids import THREAD, channel_of
from shared.queue_messages import Delivery
from shared.records import DigestState, HeldDelivery
from shared.states import Reason
from shared.storage.entity_writes import Row
from shared.storage.table import MAX_TRANSACTION_ROWS, Conflict, Table, etag_of, removal

VERSION = 1
_DIGEST = "~digest"


class HeldDeliveries:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, tenant: str, item: HeldDelivery) -> None:
        """Store a held delivery, in place of its row if there is one."""
        delivery = item.delivery
        await self._table.put(
            {
                "PartitionKey": _partition(tenant, delivery.recipient),
                "RowKey": item_key(item.notification_time, delivery),
                "v": VERSION,
                "notification": delivery.notification,
                "shard": delivery.shard,
                "recipient": delivery.recipient,
                "reason": str(item.reason),
                "until": item.until,
                "notification_time": item.notification_time,
                "eligible_since": item.eligible_since,
                "delivery_etag": item.delivery_etag,
                "urgent": item.urgent,
                "for_digest": item.for_digest,
            }
        )

    async def list(self, tenant: str, recipient: str, limit: int, after: str = "") -> Sequence[HeldDelivery]:
        """Return the `limit` oldest held deliveries of a recipient after the row key `after`."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @after and RowKey lt @digest",
            {"partition": _partition(tenant, recipient), "digest": _DIGEST, "after": after},
            limit=limit,
        )
        return [_item(row) for row in rows]

    async def list_for_digest(self, tenant: str, recipient: str, limit: int) -> Sequence[HeldDelivery]:
        """Return the `limit` oldest deliveries that `digest now` includes."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey lt @digest and for_digest eq @yes",
            {"partition": _partition(tenant, recipient), "digest": _DIGEST, "yes": True},
            limit=limit,
        )
        return [_item(row) for row in rows]

    async def list_due(
        self, tenant: str, recipient: str, now: datetime, limit: int
    ) -> tuple[Sequence[HeldDelivery], DigestState]:
        """Return the `limit` oldest deliveries held for a digest or until `now`, and the recipient's digest state.

        If there are more, the `limit` oldest that something else held until `now` are returned, too: they do not wait
        behind those for a digest.
        """
        begins = "PartitionKey eq @partition and RowKey le @digest"
        values = {
            "partition": _partition(tenant, recipient),
            "digest": _DIGEST,
            "reason": str(Reason.DIGEST),
            "now": now,
        }
        matches = "reason eq @reason or until le @now or RowKey eq @digest"
        rows = await self._table.query(f"{begins} and ( {matches} )", values, limit=limit + 1)
        items = [_item(row) for row in rows if row["RowKey"] != _DIGEST]
        if len(items) <= limit:  # then the last row is the digest state, if there is one
            states = [_digest_state(recipient, row, etag_of(row)) for row in rows[len(items) :]]
            return items, states[0] if states else DigestState()
        rows = await self._table.query(f"{begins} and reason ne @reason and until le @now", values, limit=limit)
        found = {item.key: item for item in (*items[:limit], *map(_item, rows))}
        return [found[key] for key in sorted(found)], await self.digest_state(tenant, recipient)

    async def hold_until(self, tenant: str, item: HeldDelivery, until: datetime) -> None:
        """Change how long an item is held, unless its row changed since it was read."""
        row = {"PartitionKey": _partition(tenant, item.delivery.recipient), "RowKey": item.key, "until": until}
        with suppress(Conflict):
            await self._table.merge(row, item.etag)

    async def delete(self, tenant: str, recipient: str, items: Iterable[HeldDelivery]) -> None:
        """Delete the rows of these items, except those that changed since they were read."""
        await self._table.clear(_partition(tenant, recipient), {item.key: item.etag for item in items})

    async def delete_delivery(self, tenant: str, delivery: Delivery, notification_time: datetime) -> None:
        """Delete the row of a delivery, if there is one."""
        await self._table.delete(_partition(tenant, delivery.recipient), item_key(notification_time, delivery))

    async def digest_state(self, tenant: str, recipient: str) -> DigestState:
        found = await self._table.get(_partition(tenant, recipient), _DIGEST)
        return _digest_state(recipient, *found) if found else DigestState()

    async def save_digest_state(
        self, tenant: str, recipient: str, state: DigestState, delete: Sequence[HeldDelivery] = ()
    ) -> str:
        """Write the digest state if its row still has this ETag ("" for no row), and return the new ETag.

        The items `delete` are deleted as by `delete`, in the same transaction if there are few. Raises `Conflict`.
        """
        partition = _partition(tenant, recipient)
        row = {
            "PartitionKey": partition,
            "RowKey": _DIGEST,
            "v": VERSION,
            "number": state.number,
            "last_date": _date_text(state.last_date),
            "previous_date": _date_text(state.previous_date),
            # 200 lines of up to 147 characters: a column holds 32,000 (`COLUMN_BYTES`).
            "included": "\n".join(map(_line, state.included)),
        }
        if state.etag and 0 < len(delete) < MAX_TRANSACTION_ROWS:
            removals = [removal(partition, item.key, item.etag) for item in delete]
            with suppress(Conflict):  # of an item, or of the state
                return (await self._table.batch([*removals, ("update", row, state.etag)]))[-1]
        await self.delete(tenant, recipient, delete)
        return await (self._table.merge(row, state.etag) if state.etag else self._table.insert(row))


def item_key(notification_time: datetime, delivery: Delivery) -> str:
    """Return the row key of a held delivery; keys sort by the time of the notification."""
    return (
        f"{notification_time.astimezone(UTC):%Y%m%dT%H%M%S};{delivery.notification[:32]}{keys.key(_thread(delivery))}"
    )


def _partition(tenant: str, recipient: str) -> str:
    return keys.key(f"{tenant};{channel_of(recipient)}")


def _thread(delivery: Delivery) -> str:
    return delivery.recipient.removeprefix(channel_of(delivery.recipient))


def _item(row: Row) -> HeldDelivery:
    return HeldDelivery(
        delivery=Delivery(row["notification"], row["shard"], row["recipient"], "", 0),
        reason=Reason(row["reason"]),
        until=row["until"],
        notification_time=row["notification_time"],
        eligible_since=row["eligible_since"],
        delivery_etag=row["delivery_etag"],
        urgent=row["urgent"],
        for_digest=row["for_digest"],
        key=row["RowKey"],
        etag=etag_of(row),
    )


def _digest_state(recipient: str, row: Row, etag: str) -> DigestState:
    return DigestState(
        number=row["number"],
        last_date=_date(row["last_date"]),
        previous_date=_date(row["previous_date"]),
        included=[_delivery(channel_of(recipient), line) for line in row["included"].splitlines()],
        etag=etag,
    )


def _date_text(day: date | None) -> str:
    return day.isoformat() if day else ""


def _date(text: str) -> date | None:
    return date.fromisoformat(text) if text else None


def _line(included: Delivery) -> str:
    return ";".join(
        (included.notification, included.shard, included.etag, quote(_thread(included).removeprefix(THREAD), safe=""))
    )


def _delivery(recipient: str, line: str) -> Delivery:
    notification, shard, etag, thread = line.split(";")
    return Delivery(notification, shard, recipient + (THREAD + unquote(thread) if thread else ""), etag, 0)
