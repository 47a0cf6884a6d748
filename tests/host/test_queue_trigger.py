from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

from local.host import host as host_module
from local.host.config import StartError
from local.processes import Azurite, connection_string, free_port
from shared.storage.clients import open_storage
from tests.host.conftest import HostQueue, RunHost, eventually

MessageHandler = Callable[[func.QueueMessage], Awaitable[None]]


def app_for(
    queue: str, handler: MessageHandler, data_type: func.DataType | None = func.DataType.BINARY
) -> func.FunctionApp:
    """Return an app whose only function calls `handler` for each message of `queue`."""
    app = func.FunctionApp()

    @app.queue_trigger(arg_name="msg", queue_name=queue, connection="AzureWebJobsStorage", data_type=data_type)
    async def handle(msg: func.QueueMessage) -> None:
        await handler(msg)

    return app


def collecting_handler() -> tuple[MessageHandler, list[func.QueueMessage]]:
    handled: list[func.QueueMessage] = []

    async def collect(msg: func.QueueMessage) -> None:
        handled.append(msg)

    return collect, handled


def failing_handler() -> tuple[MessageHandler, list[func.QueueMessage]]:
    handled: list[func.QueueMessage] = []

    async def fail(msg: func.QueueMessage) -> None:
        handled.append(msg)
        raise RuntimeError("intended failure")

    return fail, handled


async def test_success_deletes_the_message(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send("one", "two")
    async with run_host(app_for(queue.name, handler)):
        await eventually(lambda: len(handled) == 2)
        await eventually(lambda: _is_empty(queue))
    assert sorted(message.get_body() for message in handled) == [b"one", b"two"]
    assert {message.dequeue_count for message in handled} == {1}
    assert all(message.id and message.pop_receipt and message.insertion_time for message in handled)


async def test_first_poll_is_immediate(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send("there before the start")
    async with run_host(app_for(queue.name, handler), queues={"maxPollingInterval": "00:01:00"}):
        await eventually(lambda: handled, 30)


async def test_failed_message_returns_with_a_higher_dequeue_count(run_host: RunHost, queue: HostQueue) -> None:
    handled: list[int | None] = []

    async def fail_once(msg: func.QueueMessage) -> None:
        handled.append(msg.dequeue_count)
        if len(handled) == 1:
            raise RuntimeError("intended failure")

    await queue.send("again")
    async with run_host(app_for(queue.name, fail_once)):
        await eventually(lambda: len(handled) == 2)
        await eventually(lambda: _is_empty(queue))
    assert handled == [1, 2]
    assert await queue.poison_messages() == []


async def test_failed_message_stays_invisible_for_the_visibility_timeout(run_host: RunHost, queue: HostQueue) -> None:
    times: list[float] = []

    async def fail(msg: func.QueueMessage) -> None:
        times.append(time.monotonic())
        raise RuntimeError("intended failure")

    await queue.send("later")
    async with run_host(app_for(queue.name, fail), queues={"visibilityTimeout": "00:00:02", "maxDequeueCount": 2}):
        await eventually(lambda: len(times) == 2)
    assert times[1] - times[0] > 1.5


async def test_message_at_the_count_moves_to_the_poison_queue(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = failing_handler()
    await queue.send('{"bad": "é"}')
    async with run_host(app_for(queue.name, handler), queues={"maxDequeueCount": 3}):
        await eventually(lambda: _has_poison(queue))
        await eventually(lambda: _is_empty(queue))
    assert [message.dequeue_count for message in handled] == [1, 2, 3]
    assert await queue.poison_messages() == ['{"bad": "é"}']
    poison = (await queue.poison.peek_messages())[0]
    assert poison.expires_on is not None
    assert poison.expires_on.year == 9999


async def test_function_that_returns_a_value_has_failed(run_host: RunHost, queue: HostQueue) -> None:
    app = func.FunctionApp()

    @app.queue_trigger(arg_name="msg", queue_name=queue.name, connection="AzureWebJobsStorage")
    async def handle(msg: func.QueueMessage) -> str:
        return "no binding takes it"

    await queue.send("text")
    async with run_host(app, queues={"maxDequeueCount": 1}):
        await eventually(lambda: _has_poison(queue))


async def test_message_over_the_count_is_not_processed(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send("crashed its worker")
    for _ in range(2):
        received = await queue.client.receive_message()
        assert received is not None
        await queue.client.update_message(received, visibility_timeout=0)
    async with run_host(app_for(queue.name, handler), queues={"maxDequeueCount": 2}):
        await eventually(lambda: _has_poison(queue))
        await eventually(lambda: _is_empty(queue))
    assert handled == []


async def test_message_of_a_poison_queue_stays_invisible_at_the_count(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = failing_handler()
    await queue.poison.create_queue()
    await queue.poison.send_message("twice bad")
    async with run_host(app_for(f"{queue.name}-poison", handler), queues={"maxDequeueCount": 3}):
        await eventually(lambda: len(handled) == 3)
    assert await queue.poison.peek_messages() == []
    assert (await queue.poison.get_queue_properties()).approximate_message_count == 1


@pytest.mark.parametrize(("batch", "threshold", "max_in_flight"), [(4, 2, 6), (4, 0, 4), (1, 0, 1)])
async def test_batch_size_and_new_batch_threshold_limit_messages_in_flight(
    run_host: RunHost, queue: HostQueue, batch: int, threshold: int, max_in_flight: int
) -> None:
    in_flight = peak = done = 0

    async def slow(msg: func.QueueMessage) -> None:
        nonlocal in_flight, peak, done
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.05 if msg.get_body() == b"short" else 0.2)
        in_flight -= 1
        done += 1

    await queue.send(*["short", "long"] * 6)
    async with run_host(app_for(queue.name, slow), queues={"batchSize": batch, "newBatchThreshold": threshold}):
        await eventually(lambda: done == 12)
    assert batch <= peak <= max_in_flight


async def test_lease_is_renewed_while_a_function_runs(run_host: RunHost, queue: HostQueue) -> None:
    calls = 0
    body = b""

    async def long(msg: func.QueueMessage) -> None:
        nonlocal calls, body
        calls += 1
        body = msg.get_body()
        await asyncio.sleep(2.5)

    await queue.send("long")
    async with run_host(app_for(queue.name, long), settings={"HERALD_LOCAL_VISIBILITY_SECONDS": "1"}):
        await eventually(lambda: _is_empty(queue))
    assert calls == 1
    assert body == b"long"


async def test_renewal_keeps_the_body_for_the_next_reader(run_host: RunHost, queue: HostQueue) -> None:
    bodies: list[bytes] = []

    async def fail_late(msg: func.QueueMessage) -> None:
        bodies.append(msg.get_body())
        if len(bodies) == 1:
            await asyncio.sleep(1.2)
            raise RuntimeError("intended failure")

    await queue.send("kept")
    async with run_host(app_for(queue.name, fail_late), settings={"HERALD_LOCAL_VISIBILITY_SECONDS": "1"}):
        await eventually(lambda: len(bodies) == 2)
    assert bodies == [b"kept", b"kept"]


async def test_message_received_by_another_reader_is_not_deleted(
    run_host: RunHost, queue: HostQueue, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()
    started = asyncio.Event()

    async def held(msg: func.QueueMessage) -> None:
        started.set()
        # As another reader that received the message after its lease.
        await queue.client.update_message(str(msg.id), msg.pop_receipt, visibility_timeout=300)
        await release.wait()

    await queue.send("taken")
    async with run_host(app_for(queue.name, held)):
        await started.wait()
        release.set()
        await eventually(lambda: "the lease of a message expired" in caplog.text)
    assert await queue.count() == 1


async def test_base64_message_is_decoded(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send(base64.b64encode(b'{"a": 1}').decode())
    async with run_host(app_for(queue.name, handler), queues={"messageEncoding": "base64"}):
        await eventually(lambda: handled)
    assert handled[0].get_body() == b'{"a": 1}'


async def test_raw_message_moves_unchanged_to_the_poison_queue(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send('{"raw": true}')
    async with run_host(app_for(queue.name, handler), queues={"messageEncoding": "base64"}):
        await eventually(lambda: _has_poison(queue))
        await eventually(lambda: _is_empty(queue))
    assert handled == []
    assert await queue.poison_messages() == ['{"raw": true}']


async def test_text_is_unchanged_without_encoding(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    encoded = base64.b64encode(b"{}").decode()
    await queue.send(encoded, "<&é>")
    async with run_host(app_for(queue.name, handler)):
        await eventually(lambda: len(handled) == 2)
    assert {message.get_body() for message in handled} == {encoded.encode(), "<&é>".encode()}


async def test_properties_of_a_string_body_replace_metadata_in_any_case(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send(json.dumps({"ID": "from the body", "dequeuecount": 7}))
    async with run_host(app_for(queue.name, handler, None)):
        await eventually(lambda: handled)
    assert (handled[0].id, handled[0].dequeue_count) == ("from the body", 7)


async def test_string_body_can_fail_before_the_function_runs(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send('{"dequeueCount": "abc"}')
    async with run_host(app_for(queue.name, handler, func.DataType.STRING), queues={"maxDequeueCount": 2}):
        await eventually(lambda: _has_poison(queue))
    assert handled == []


async def test_binary_body_does_not_replace_metadata(run_host: RunHost, queue: HostQueue) -> None:
    handler, handled = collecting_handler()
    await queue.send('{"id": "from the body", "dequeueCount": "abc", "insertionTime": "soon"}')
    async with run_host(app_for(queue.name, handler)):
        await eventually(lambda: handled)
    assert handled[0].id != "from the body"
    assert handled[0].dequeue_count == 1


async def test_missing_queue_is_not_created(run_host: RunHost, queue: HostQueue, environ: dict[str, str]) -> None:
    handler, handled = collecting_handler()
    await queue.client.delete_queue()
    async with run_host(app_for(queue.name, handler)):
        queues, tables = open_storage(environ)
        async with queues, tables:
            assert [one.name async for one in queues.list_queues()] == []
        await queue.create()
        await queue.send("late")
        await eventually(lambda: handled)


async def test_failure_is_logged_once_for_each_invocation(
    run_host: RunHost, queue: HostQueue, caplog: pytest.LogCaptureFixture
) -> None:
    handler, _ = failing_handler()
    await queue.send("secret text")
    async with run_host(app_for(queue.name, handler), queues={"maxDequeueCount": 2}):
        await eventually(lambda: _is_empty(queue))
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    assert "secret text" not in caplog.text


async def test_synchronous_function_processes_messages_on_threads(run_host: RunHost, queue: HostQueue) -> None:
    app = func.FunctionApp()
    names: list[str] = []

    @app.queue_trigger(arg_name="msg", queue_name=queue.name, connection="")
    def handle(msg: func.QueueMessage) -> None:
        names.append(threading.current_thread().name)

    await queue.send("one")
    async with run_host(app):
        await eventually(lambda: _is_empty(queue))
    assert names[0].startswith("function")


async def test_message_over_the_function_timeout_fails(run_host: RunHost, queue: HostQueue) -> None:
    async def hang(msg: func.QueueMessage) -> None:
        await asyncio.Event().wait()

    await queue.send("hangs")
    async with run_host(app_for(queue.name, hang), queues={"maxDequeueCount": 1}, functionTimeout="00:00:00.2"):
        await eventually(lambda: _has_poison(queue))


async def test_stop_waits_for_a_running_function_and_deletes_its_message(run_host: RunHost, queue: HostQueue) -> None:
    release, started = asyncio.Event(), asyncio.Event()
    finished = 0

    async def slow(msg: func.QueueMessage) -> None:
        nonlocal finished
        started.set()
        await release.wait()
        finished += 1

    await queue.send("in progress")
    async with run_host(app_for(queue.name, slow)) as running:
        await started.wait()
        stopping = asyncio.create_task(running.host.stop())
        await asyncio.sleep(0)
        await queue.send("for the next host")
        release.set()
        assert await stopping
    assert finished == 1
    assert await queue.count() == 1


async def test_unfinished_message_returns_after_its_lease(run_host: RunHost, queue: HostQueue) -> None:
    started = asyncio.Event()

    async def hang(msg: func.QueueMessage) -> None:
        started.set()
        await asyncio.Event().wait()

    await queue.send("comes back")
    async with run_host(app_for(queue.name, hang), settings={"HERALD_LOCAL_VISIBILITY_SECONDS": "1"}) as running:
        await started.wait()
        assert not await running.host.stop(grace=0.1)
    handler, handled = collecting_handler()
    async with run_host(app_for(queue.name, handler)):
        await eventually(lambda: handled)
    assert handled[0].dequeue_count == 2


async def test_connection_selects_the_storage_account(run_host: RunHost, queue: HostQueue, connection: str) -> None:
    app = func.FunctionApp()
    handled: list[bytes] = []

    @app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="Other", data_type=func.DataType.BINARY)
    async def handle(msg: func.QueueMessage) -> None:
        handled.append(msg.get_body())

    await queue.send("elsewhere")
    settings = {"AzureWebJobsStorage": "", "AzureWebJobsOther": connection, "QUEUE": queue.name}
    async with run_host(app, settings=settings):
        await eventually(lambda: handled)
    assert handled == [b"elsewhere"]


async def test_host_survives_a_storage_outage_and_logs_one_line(
    run_host: RunHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "Host")
    ports = (free_port(), free_port(), free_port())
    settings = {"AzureWebJobsStorage": connection_string(ports)}
    handler, handled = collecting_handler()
    with Azurite(tmp_path, ports=ports) as first:
        async with run_host(app_for("work", handler), settings=settings):
            first.kill()
            await eventually(lambda: "cannot be read" in caplog.text)
            with Azurite(tmp_path, ports=ports):
                queues, tables = open_storage(settings)
                async with queues, tables:
                    client = queues.get_queue_client("work")
                    await client.create_queue()
                    await client.send_message("after the outage")
                    await eventually(lambda: handled)
                    await eventually(lambda: "can be read again" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if "be read" in record.getMessage()]
    assert len(lines) == 2


async def test_unreachable_storage_stops_the_start_with_one_line(
    run_host: RunHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_module, "STORAGE_START_SECONDS", 0.5)
    handler, _ = collecting_handler()
    unused = connection_string((free_port(), free_port(), free_port()))
    with pytest.raises(StartError, match=r"^The storage of AzureWebJobsStorage did not answer within .*$"):
        async with run_host(app_for("work", handler), settings={"AzureWebJobsStorage": unused}):
            pass
    assert len([record for record in caplog.records if record.name == "Host"]) == 1


async def test_wrong_account_key_stops_the_start_at_once(run_host: RunHost, environ: dict[str, str]) -> None:
    handler, _ = collecting_handler()
    wrong = environ["AzureWebJobsStorage"].replace("AccountKey=Eby8", "AccountKey=AAAA")
    with pytest.raises(StartError, match=r"^The storage of AzureWebJobsStorage refuses the request \(.*\): .*$"):
        async with run_host(app_for("work", handler), settings={"AzureWebJobsStorage": wrong}):
            pass


@pytest.mark.parametrize("setting", ["HERALD_LOCAL_VISIBILITY_SECONDS", "PYTHON_THREADPOOL_THREAD_COUNT"])
async def test_invalid_number_stops_the_start_with_one_line(run_host: RunHost, setting: str) -> None:
    with pytest.raises(StartError, match=rf"^{setting} must be a whole number from 1, not 'ten'$"):
        async with run_host(func.FunctionApp(), settings={setting: "ten"}):
            pass


async def _is_empty(queue: HostQueue) -> bool:
    return await queue.count() == 0


async def _has_poison(queue: HostQueue) -> Any:
    return await queue.poison_messages()
