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
from tests.host.conftest import Queue, Run, eventually

Work = Callable[[func.QueueMessage], Awaitable[None]]


def app_for(queue: str, work: Work, data_type: func.DataType | None = func.DataType.BINARY) -> func.FunctionApp:
    """An app whose one function does `work` for each message of `queue`."""
    app = func.FunctionApp()

    @app.queue_trigger(arg_name="msg", queue_name=queue, connection="AzureWebJobsStorage", data_type=data_type)
    async def handle(msg: func.QueueMessage) -> None:
        await work(msg)

    return app


def collecting() -> tuple[Work, list[func.QueueMessage]]:
    seen: list[func.QueueMessage] = []

    async def collect(msg: func.QueueMessage) -> None:
        seen.append(msg)

    return collect, seen


def failing() -> tuple[Work, list[func.QueueMessage]]:
    seen: list[func.QueueMessage] = []

    async def fail(msg: func.QueueMessage) -> None:
        seen.append(msg)
        raise RuntimeError("told to fail")

    return fail, seen


async def test_success_deletes_the_message(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send("one", "two")
    async with run(app_for(queue.name, work)):
        await eventually(lambda: len(seen) == 2)
        await eventually(lambda: _is_empty(queue))
    assert sorted(message.get_body() for message in seen) == [b"one", b"two"]
    assert {message.dequeue_count for message in seen} == {1}
    assert all(message.id and message.pop_receipt and message.insertion_time for message in seen)


async def test_the_first_poll_comes_at_once_whatever_the_longest_interval(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send("there before the start")
    async with run(app_for(queue.name, work), queues={"maxPollingInterval": "00:01:00"}):
        await eventually(lambda: seen, 30)


async def test_a_failure_below_the_count_comes_again_with_a_higher_dequeue_count(run: Run, queue: Queue) -> None:
    seen: list[int | None] = []

    async def fail_once(msg: func.QueueMessage) -> None:
        seen.append(msg.dequeue_count)
        if len(seen) == 1:
            raise RuntimeError("told to fail")

    await queue.send("again")
    async with run(app_for(queue.name, fail_once)):
        await eventually(lambda: len(seen) == 2)
        await eventually(lambda: _is_empty(queue))
    assert seen == [1, 2]
    assert await queue.poisoned() == []


async def test_a_failed_message_stays_invisible_for_the_visibility_timeout(run: Run, queue: Queue) -> None:
    times: list[float] = []

    async def fail(msg: func.QueueMessage) -> None:
        times.append(time.monotonic())
        raise RuntimeError("told to fail")

    await queue.send("later")
    async with run(app_for(queue.name, fail), queues={"visibilityTimeout": "00:00:02", "maxDequeueCount": 2}):
        await eventually(lambda: len(times) == 2)
    assert times[1] - times[0] > 1.5


async def test_at_the_count_a_message_goes_to_the_poison_queue_with_its_body(run: Run, queue: Queue) -> None:
    work, seen = failing()
    await queue.send('{"bad": "é"}')
    async with run(app_for(queue.name, work), queues={"maxDequeueCount": 3}):
        await eventually(lambda: _has_poison(queue))
        await eventually(lambda: _is_empty(queue))
    assert [message.dequeue_count for message in seen] == [1, 2, 3]
    assert await queue.poisoned() == ['{"bad": "é"}']
    kept = (await queue.poison.peek_messages())[0]
    assert kept.expires_on is not None
    assert kept.expires_on.year == 9999


async def test_a_message_over_the_count_goes_to_poison_without_a_call(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send("crashed its worker")
    for _ in range(2):
        received = await queue.client.receive_message()
        assert received is not None
        await queue.client.update_message(received, visibility_timeout=0)
    async with run(app_for(queue.name, work), queues={"maxDequeueCount": 2}):
        await eventually(lambda: _has_poison(queue))
        await eventually(lambda: _is_empty(queue))
    assert seen == []


async def test_a_poison_queue_has_no_poison_queue_and_keeps_at_the_count_what_fails_invisible(
    run: Run, queue: Queue
) -> None:
    work, seen = failing()
    await queue.poison.create_queue()
    await queue.poison.send_message("twice bad")
    async with run(app_for(f"{queue.name}-poison", work), queues={"maxDequeueCount": 3}):
        await eventually(lambda: len(seen) == 3)
    assert await queue.poison.peek_messages() == []
    assert (await queue.poison.get_queue_properties()).approximate_message_count == 1


@pytest.mark.parametrize(("batch", "threshold", "most"), [(4, 2, 6), (4, 0, 4), (1, 0, 1)])
async def test_batch_size_and_new_batch_threshold_bound_what_is_in_flight(
    run: Run, queue: Queue, batch: int, threshold: int, most: int
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
    async with run(app_for(queue.name, slow), queues={"batchSize": batch, "newBatchThreshold": threshold}):
        await eventually(lambda: done == 12)
    assert batch <= peak <= most


async def test_the_lease_is_renewed_while_a_function_runs(run: Run, queue: Queue) -> None:
    calls = 0
    body = b""

    async def long(msg: func.QueueMessage) -> None:
        nonlocal calls, body
        calls += 1
        body = msg.get_body()
        await asyncio.sleep(2.5)

    await queue.send("long")
    async with run(app_for(queue.name, long), settings={"HERALD_LOCAL_VISIBILITY_SECONDS": "1"}):
        await eventually(lambda: _is_empty(queue))
    assert calls == 1
    assert body == b"long"


async def test_a_renewal_keeps_the_body_for_the_next_reader(run: Run, queue: Queue) -> None:
    bodies: list[bytes] = []

    async def fail_late(msg: func.QueueMessage) -> None:
        bodies.append(msg.get_body())
        if len(bodies) == 1:
            await asyncio.sleep(1.2)
            raise RuntimeError("told to fail")

    await queue.send("kept")
    async with run(app_for(queue.name, fail_late), settings={"HERALD_LOCAL_VISIBILITY_SECONDS": "1"}):
        await eventually(lambda: len(bodies) == 2)
    assert bodies == [b"kept", b"kept"]


async def test_a_message_that_another_reader_took_is_left_to_it(
    run: Run, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()
    started = asyncio.Event()

    async def held(msg: func.QueueMessage) -> None:
        started.set()
        # what a reader does to whom the message came after its lease
        await queue.client.update_message(str(msg.id), msg.pop_receipt, visibility_timeout=300)
        await release.wait()

    await queue.send("taken")
    async with run(app_for(queue.name, held)):
        await started.wait()
        release.set()
        await eventually(lambda: "outlived its lease" in caplog.text)
    assert await queue.count() == 1


async def test_with_base64_a_message_is_decoded(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send(base64.b64encode(b'{"a": 1}').decode())
    async with run(app_for(queue.name, work), queues={"messageEncoding": "base64"}):
        await eventually(lambda: seen)
    assert seen[0].get_body() == b'{"a": 1}'


async def test_with_base64_a_raw_message_goes_to_poison_unseen_and_as_it_is(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send('{"raw": true}')
    async with run(app_for(queue.name, work), queues={"messageEncoding": "base64"}):
        await eventually(lambda: _has_poison(queue))
        await eventually(lambda: _is_empty(queue))
    assert seen == []
    assert await queue.poisoned() == ['{"raw": true}']


async def test_with_no_encoding_a_function_gets_the_text_as_it_is(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    encoded = base64.b64encode(b"{}").decode()
    await queue.send(encoded, "<&é>")
    async with run(app_for(queue.name, work)):
        await eventually(lambda: len(seen) == 2)
    assert {message.get_body() for message in seen} == {encoded.encode(), "<&é>".encode()}


async def test_properties_of_a_string_body_overlay_the_metadata_whatever_their_case(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send(json.dumps({"ID": "from the body", "dequeuecount": 7}))
    async with run(app_for(queue.name, work, None)):
        await eventually(lambda: seen)
    assert (seen[0].id, seen[0].dequeue_count) == ("from the body", 7)


async def test_a_string_body_can_break_the_conversion_before_the_function_runs(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send('{"dequeueCount": "abc"}')
    async with run(app_for(queue.name, work, func.DataType.STRING), queues={"maxDequeueCount": 2}):
        await eventually(lambda: _has_poison(queue))
    assert seen == []


async def test_a_binary_body_does_not_overlay_the_metadata(run: Run, queue: Queue) -> None:
    work, seen = collecting()
    await queue.send('{"id": "from the body", "dequeueCount": "abc", "insertionTime": "soon"}')
    async with run(app_for(queue.name, work)):
        await eventually(lambda: seen)
    assert seen[0].id != "from the body"
    assert seen[0].dequeue_count == 1


async def test_a_missing_queue_is_awaited_and_not_created(run: Run, queue: Queue, environ: dict[str, str]) -> None:
    work, seen = collecting()
    await queue.client.delete_queue()
    async with run(app_for(queue.name, work)):
        queues, tables = open_storage(environ)
        async with queues, tables:
            assert [one.name async for one in queues.list_queues()] == []
        await queue.create()
        await queue.send("late")
        await eventually(lambda: seen)


async def test_a_failing_function_is_logged_once_a_call(
    run: Run, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    work, _ = failing()
    await queue.send("secret text")
    async with run(app_for(queue.name, work), queues={"maxDequeueCount": 2}):
        await eventually(lambda: _is_empty(queue))
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    assert "secret text" not in caplog.text


async def test_a_synchronous_function_takes_messages_on_threads(run: Run, queue: Queue) -> None:
    app = func.FunctionApp()
    names: list[str] = []

    @app.queue_trigger(arg_name="msg", queue_name=queue.name, connection="")
    def handle(msg: func.QueueMessage) -> None:
        names.append(threading.current_thread().name)

    await queue.send("one")
    async with run(app):
        await eventually(lambda: _is_empty(queue))
    assert names[0].startswith("function")


async def test_a_call_over_the_function_timeout_fails_the_message(run: Run, queue: Queue) -> None:
    async def hang(msg: func.QueueMessage) -> None:
        await asyncio.Event().wait()

    await queue.send("hangs")
    async with run(app_for(queue.name, hang), queues={"maxDequeueCount": 1}, functionTimeout="00:00:00.2"):
        await eventually(lambda: _has_poison(queue))


async def test_a_stop_lets_what_runs_finish_and_deletes_its_message(run: Run, queue: Queue) -> None:
    release, started = asyncio.Event(), asyncio.Event()
    finished = 0

    async def slow(msg: func.QueueMessage) -> None:
        nonlocal finished
        started.set()
        await release.wait()
        finished += 1

    await queue.send("under way")
    async with run(app_for(queue.name, slow)) as running:
        await started.wait()
        stopping = asyncio.create_task(running.host.stop())
        await asyncio.sleep(0)
        await queue.send("for the next host")
        release.set()
        assert await stopping
    assert finished == 1
    assert await queue.count() == 1


async def test_what_does_not_finish_in_time_comes_back_after_its_lease(run: Run, queue: Queue) -> None:
    started = asyncio.Event()

    async def hang(msg: func.QueueMessage) -> None:
        started.set()
        await asyncio.Event().wait()

    await queue.send("comes back")
    async with run(app_for(queue.name, hang), settings={"HERALD_LOCAL_VISIBILITY_SECONDS": "1"}) as running:
        await started.wait()
        assert not await running.host.stop(grace=0.1)
    work, seen = collecting()
    async with run(app_for(queue.name, work)):
        await eventually(lambda: seen)
    assert seen[0].dequeue_count == 2


async def test_a_connection_names_the_account_of_its_trigger(run: Run, queue: Queue, connection: str) -> None:
    app = func.FunctionApp()
    seen: list[bytes] = []

    @app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="Other", data_type=func.DataType.BINARY)
    async def handle(msg: func.QueueMessage) -> None:
        seen.append(msg.get_body())

    await queue.send("elsewhere")
    settings = {"AzureWebJobsStorage": "", "AzureWebJobsOther": connection, "QUEUE": queue.name}
    async with run(app, settings=settings):
        await eventually(lambda: seen)
    assert seen == [b"elsewhere"]


async def test_an_outage_of_the_storage_is_one_line_and_is_survived(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "Host")
    ports = (free_port(), free_port(), free_port())
    settings = {"AzureWebJobsStorage": connection_string(ports)}
    work, seen = collecting()
    with Azurite(tmp_path, ports=ports) as first:
        async with run(app_for("work", work), settings=settings):
            first.kill()
            await eventually(lambda: "cannot be read" in caplog.text)
            with Azurite(tmp_path, ports=ports):
                queues, tables = open_storage(settings)
                async with queues, tables:
                    client = queues.get_queue_client("work")
                    await client.create_queue()
                    await client.send_message("after the outage")
                    await eventually(lambda: seen)
                    await eventually(lambda: "can be read again" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if "be read" in record.getMessage()]
    assert len(lines) == 2


async def test_a_storage_that_never_answers_stops_the_start_with_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_module, "STORAGE_PATIENCE", 0.5)
    work, _ = collecting()
    nobody = connection_string((free_port(), free_port(), free_port()))
    with pytest.raises(StartError, match=r"^The storage of AzureWebJobsStorage did not answer within .*$"):
        async with run(app_for("work", work), settings={"AzureWebJobsStorage": nobody}):
            pass
    assert len([record for record in caplog.records if record.name == "Host"]) == 1


async def test_a_storage_that_refuses_us_stops_the_start_at_once(run: Run, environ: dict[str, str]) -> None:
    work, _ = collecting()
    wrong = environ["AzureWebJobsStorage"].replace("AccountKey=Eby8", "AccountKey=AAAA")
    with pytest.raises(StartError, match=r"^The storage of AzureWebJobsStorage refuses us: .*$"):
        async with run(app_for("work", work), settings={"AzureWebJobsStorage": wrong}):
            pass


@pytest.mark.parametrize("setting", ["HERALD_LOCAL_VISIBILITY_SECONDS", "PYTHON_THREADPOOL_THREAD_COUNT"])
async def test_a_number_that_is_none_stops_the_start_with_one_line(run: Run, setting: str) -> None:
    with pytest.raises(StartError, match=rf"^{setting} must be a whole number from 1, not 'ten'$"):
        async with run(func.FunctionApp(), settings={setting: "ten"}):
            pass


async def _is_empty(queue: Queue) -> bool:
    return await queue.count() == 0


async def _has_poison(queue: Queue) -> Any:
    return await queue.poisoned()
