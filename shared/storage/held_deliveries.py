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
        """Let a delivery wait; the same again changes nothing but `reason` and `until`."""
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

    async def of(self, tenant: str, recipient: str, limit: int, after: str = "") -> list[HeldDelivery]:
        """The first `limit` that wait for a recipient, after the one of the key `after`, oldest first."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @after and RowKey lt @digest",
            {"partition": _partition(tenant, recipient), "digest": _DIGEST, "after": after},
            limit=limit,
        )
        return [_item(row) for row in rows]

    async def for_digest(self, tenant: str, recipient: str, limit: int) -> list[HeldDelivery]:
        """Return the `limit` oldest deliveries that `digest now` includes."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey lt @digest and for_digest eq @yes",
            {"partition": _partition(tenant, recipient), "digest": _DIGEST, "yes": True},
            limit=limit,
        )
        return [_item(row) for row in rows]

    async def ready(
        self, tenant: str, recipient: str, now: datetime, limit: int
    ) -> tuple[list[HeldDelivery], DigestState]:
        """The first `limit` that wait for a digest, or whose time has come at `now`, oldest first.

        How far the recipient's digests are comes with them. Where more wait, the first `limit` that wait for something
        else, and whose time has come, are among them too: they do not stand behind all that can wait.
        """
        begins = "PartitionKey eq @partition and RowKey le @digest"
        values = {
            "partition": _partition(tenant, recipient),
            "digest": _DIGEST,
            "reason": str(Reason.DIGEST),
            "now": now,
        }
        wanted = "reason eq @reason or until le @now or RowKey eq @digest"
        rows = await self._table.query(f"{begins} and ( {wanted} )", values, limit=limit + 1)
        items = [_item(row) for row in rows if row["RowKey"] != _DIGEST]
        if len(items) <= limit:
            return items, _digest(recipient, rows[-1]) if len(rows) > len(items) else DigestState()
        # The row of digests is the last one.
        rows = await self._table.query(f"{begins} and reason ne @reason and until le @now", values, limit=limit)
        found = {item.key: item for item in (*items[:limit], *map(_item, rows))}
        return [found[key] for key in sorted(found)], await self.digest(tenant, recipient)

    async def wait_until(self, tenant: str, item: HeldDelivery, until: datetime) -> None:
        """Let an item wait until another time, where it still waits and was not put again since it was read."""
        row = {"PartitionKey": _partition(tenant, item.delivery.recipient), "RowKey": item.key, "until": until}
        with suppress(Conflict):
            await self._table.merge(row, item.etag)

    async def done(self, tenant: str, recipient: str, items: Iterable[HeldDelivery]) -> None:
        """Remove what waited for a recipient, where it was not put again since it was read."""
        await self._table.clear(_partition(tenant, recipient), {item.key: item.etag for item in items})

    async def forget(self, tenant: str, delivery: Delivery, notification_time: datetime) -> None:
        """Remove the item of a delivery, whose notification `notification_time` then, where there is one."""
        await self._table.delete(_partition(tenant, delivery.recipient), item_key(notification_time, delivery))

    async def digest(self, tenant: str, recipient: str) -> DigestState:
        found = await self._table.get(_partition(tenant, recipient), _DIGEST)
        return _digest(recipient, found[0]) if found else DigestState()

    async def move_digest(
        self, tenant: str, recipient: str, state: DigestState, over: Sequence[HeldDelivery] = ()
    ) -> str:
        """Write it where the row still has its ETag ("" for none); returns the new one, or raises `Conflict`.

        The items `over` are removed too, as by `done`, in the same transaction where that is possible.
        """
        partition = _partition(tenant, recipient)
        row = {
            "PartitionKey": partition,
            "RowKey": _DIGEST,
            "v": VERSION,
            "number": state.number,
            "last": _text(state.last),
            "before": _text(state.before),
            # 200 lines of up to 147 characters: a column holds 32,000 (`COLUMN_BYTES`).
            "included": "\n".join(map(_line, state.included)),
        }
        if state.etag and 0 < len(over) < MAX_TRANSACTION_ROWS:
            removals = [removal(partition, item.key, item.etag) for item in over]
            with suppress(Conflict):  # with an item, or with the row itself
                return (await self._table.batch([*removals, ("update", row, state.etag)]))[-1]
        await self.done(tenant, recipient, over)
        return await (self._table.merge(row, state.etag) if state.etag else self._table.insert(row))


def item_key(notification_time: datetime, delivery: Delivery) -> str:
    """The row key of an item: in the order of time, and the same for the same delivery."""
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


def _digest(recipient: str, row: Row) -> DigestState:
    return DigestState(
        number=row["number"],
        last=_date(row["last"]),
        before=_date(row["before"]),
        included=[_told(channel_of(recipient), line) for line in row["included"].splitlines()],
        etag=etag_of(row),
    )


def _text(day: date | None) -> str:
    return day.isoformat() if day else ""


def _date(text: str) -> date | None:
    return date.fromisoformat(text) if text else None


def _line(included: Delivery) -> str:
    return ";".join(
        (included.notification, included.shard, included.etag, quote(_thread(included).removeprefix(THREAD), safe=""))
    )


def _told(recipient: str, line: str) -> Delivery:
    notification, shard, etag, thread = line.split(";")
    return Delivery(notification, shard, recipient + (THREAD + unquote(thread) if thread else ""), etag, 0)
