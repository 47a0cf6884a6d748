"""Benchmarks count and compute their figures correctly."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.comparison import flatten_figures, report_pairs
from benchmarks.operations import name_operation, observe_requests
from benchmarks.process_meters import PROBE_SECONDS, LoopLag
from benchmarks.report import Report, median_ratio, medians
from benchmarks.tick import SampledTable
from shared.queues import Queues
from shared.storage.clients import open_storage
from shared.storage.table import Table

TABLE, QUEUE = "http://127.0.0.1:10002/devstoreaccount1/", "http://127.0.0.1:10001/devstoreaccount1/"
BATCH = (
    b"--batch_1\r\nContent-Type: multipart/mixed; boundary=changeset_1\r\n\r\n--changeset_1\r\n"
    b"Content-Type: application/http\r\n\r\nPATCH http://127.0.0.1:10002/devstoreaccount1/"
    b"HeraldDeliveries(PartitionKey='a;0',RowKey='u%3A1') HTTP/1.1\r\nIf-Match: W/\"1\"\r\n\r\n{}\r\n"
)


@pytest.mark.parametrize(
    ("method", "url", "body", "name"),
    [
        ("GET", TABLE + "HeraldConversations(PartitionKey='t%3Buser%3B0',RowKey='1')", b"", "Conversations: read"),
        ("GET", TABLE + "HeraldConversations()?$filter=PartitionKey", b"", "Conversations: query"),
        ("POST", TABLE + "HeraldRateLanes", b"{}", "RateLanes: insert"),
        ("PATCH", TABLE + "HeraldRateLanes(PartitionKey='t',RowKey='tenant')", b"{}", "RateLanes: merge"),
        ("POST", TABLE + "$batch", BATCH, "Deliveries: transaction"),
        ("POST", QUEUE + "deliveries-urgent/messages?messagettl=-1", b"<QueueMessage/>", "deliveries-urgent: put"),
        ("GET", QUEUE + "deliveries/messages?numofmessages=32", b"", "deliveries: receive"),
        ("DELETE", QUEUE + "deliveries/messages/1?popreceipt=2", b"", "deliveries: delete"),
    ],
)
def test_storage_request_is_named_by_table_or_queue_and_operation(
    method: str, url: str, body: bytes, name: str
) -> None:
    assert name_operation(method, url, body, "Herald") == name


async def test_each_request_to_storage_is_observed_once(connection: str) -> None:
    counts: Counter[str] = Counter()
    bodies = []

    def observe(method: str, url: str, body: bytes, read_answer: Callable[[], bytes]) -> None:
        counts[name_operation(method, url, body, "Herald")] += 1
        if url.endswith("numofmessages=1"):
            bodies.append(read_answer())

    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table, ours = Table(tables.get_table_client("HeraldRows")), Queues(queues)
        await table.create()
        await ours.create("work")
        with observe_requests(observe):
            for key in ("a", "b"):
                etag = await table.insert({"PartitionKey": "p", "RowKey": key})
                await table.merge({"PartitionKey": "p", "RowKey": key}, etag)
            await table.get("p", "a")
            await table.query("PartitionKey eq @p", {"p": "p"}, limit=9)
            await table.clear("p", {"a": "", "b": ""})
            await ours.put("work", "x")
            [_] = [each async for each in queues.get_queue_client("work").receive_messages(max_messages=1)]
        await table.get("p", "a")
    assert counts == {
        "Rows: insert": 2, "Rows: merge": 2, "Rows: read": 1, "Rows: query": 1, "Rows: transaction": 1,
        "work: put": 1, "work: receive": 1,
    }  # fmt: skip
    assert all(b"<QueueMessage>" in body for body in bodies)


async def test_loop_lag_is_the_delay_of_a_wake_up() -> None:
    async with LoopLag() as lag:
        await asyncio.sleep(2 * PROBE_SECONDS)
        time.sleep(0.1)  # noqa: ASYNC251 (that is what is measured)
        await asyncio.sleep(2 * PROBE_SECONDS)
    assert lag.longest_ms >= 1000 * (0.1 - PROBE_SECONDS)
    assert lag.p99_ms <= lag.longest_ms


def test_ratio_is_the_median_of_ratios_of_paired_runs() -> None:
    ours, theirs = [{"s": 1.0}, {"s": 2.0}, {"s": 9.0}], [{"s": 2.0}, {"s": 4.0}, {"s": 9.0}]
    assert median_ratio(ours, theirs, "s") == 0.5
    assert medians(ours) == {"s": 2.0}


def test_figures_have_their_path_and_the_median_of_runs() -> None:
    told = {
        "whole": {"people": 9, "quick": True, "runs": {"all": [{"s": 1}, {"s": 5}, {"s": 2, "more": 1}], "none": []}}
    }
    assert dict(flatten_figures(told)) == {"whole / people": 9, "whole / all / s": 2}


def test_checkouts_are_compared_by_the_ratios_of_their_pairs() -> None:
    pairs = [({"s": 1.0, "new": 1.0}, {"s": 2.0}), ({"s": 9.0}, {"s": 9.0}), ({"s": 3.0}, {"s": 6.0})]
    [_, _, _, row, _] = report_pairs(pairs).lines
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["s", "3.00", "6.00", "0.50", "0.50 to 1.00"]


def test_table_has_one_line_a_row_and_columns_of_one_width() -> None:
    report = Report()
    report.add_table(("", "msg/s"), [["a", 1234.5], ["longer", 0.25]])
    lines = [line for line in report.lines if line]
    assert [line.split("|")[2].strip() for line in lines] == ["msg/s", "-------", "1,234", "0.25"]
    assert len({len(line) for line in lines}) == 1


async def test_sampled_table_stores_outermost_rows_and_counts_all() -> None:
    kept = SampledTable(keep_all=False)
    for partition, row in [("a", "5"), ("a", "3"), ("b", "1"), ("a", "9"), ("a", "4")]:
        await kept.put({"PartitionKey": partition, "RowKey": row})
    assert kept.counts == {"a": 4, "b": 1}
    stored = {partition: [row["RowKey"] for row in rows] for partition, rows in kept.rows.items()}
    assert stored == {"a": ["3", "9"], "b": ["1"]}
