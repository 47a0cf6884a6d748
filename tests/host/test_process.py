"""The host as a process of its own: what it prints, its exit codes, and its signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from local.processes import ROOT
from tests.host.conftest import Queue, eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it sends POSIX signals")

#: Answers with what it saw when it was imported.
HTTP_APP = """
import asyncio, os
import azure.functions as func

app = func.FunctionApp()
in_loop = asyncio.get_running_loop() is not None

@app.route(route="state", auth_level="anonymous")
async def state(req: func.HttpRequest) -> str:
    return f"{in_loop} {os.environ['AZURE_FUNCTIONS_ENVIRONMENT']} {os.environ.get('GIVEN')} {os.environ.get('FILED')}"
"""

#: Works on each message until the file `go` exists.
QUEUE_APP = """
import asyncio, os
import azure.functions as func

app = func.FunctionApp()

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="", data_type=func.DataType.BINARY)
async def work(msg: func.QueueMessage) -> None:
    print("working on try", msg.dequeue_count, flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
"""


class Process:
    """A host process in `folder`, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = self.err = ""
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, "out")),
            asyncio.create_task(self._read(process.stderr, "err")),
        ]

    async def url(self) -> str:
        await eventually(lambda: "Listening on" in self.out or self.process.returncode is not None, 30)
        found = re.search(r"Listening on (\S+)", self.out)
        assert found, self.err
        return found.group(1)

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 40)
        await asyncio.gather(*self._readers)
        return code

    async def _read(self, stream: asyncio.StreamReader, name: str) -> None:
        while chunk := await stream.read(4096):
            setattr(self, name, getattr(self, name) + chunk.decode())


class Start(Protocol):
    async def __call__(self, app: str, *arguments: str, **environ: str) -> Process: ...


@pytest.fixture
async def start(tmp_path: Path, environ: dict[str, str]) -> AsyncIterator[Start]:
    """Starts the host on the app of that text, on any port, in a folder with a host.json."""
    started: list[Process] = []
    host_json = {"extensions": {"queues": {"messageEncoding": "none", "maxPollingInterval": "00:00:00.1"}}}
    (tmp_path / "host.json").write_text(json.dumps(host_json))

    async def starting(app: str, *arguments: str, **more: str) -> Process:
        (tmp_path / "function_app.py").write_text(app)
        values = {**os.environ, **environ, "PYTHONPATH": str(ROOT), **more}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "local.host", *(arguments or ("--port", "0")),
            cwd=tmp_path, env=values,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started.append(Process(process))
        return started[-1]

    yield starting
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
        await one.ended()


async def test_the_app_is_imported_inside_the_loop_with_its_settings_and_existing_variables_win(
    start: Start, tmp_path: Path
) -> None:
    values = {"GIVEN": "file", "FILED": "file"}
    (tmp_path / "local.settings.json").write_text(json.dumps({"Values": values}))
    host = await start(HTTP_APP, GIVEN="environment", AZURE_FUNCTIONS_ENVIRONMENT="Staging")
    async with aiohttp.request("GET", f"{await host.url()}/api/state") as answer:
        assert await answer.text() == "True Staging environment file"
    assert re.search(r"state: \[any method\] http://127\.0\.0\.1:\d+/api/state\nListening on http", host.out)


async def test_it_stays_in_the_process_group_of_its_caller(start: Start) -> None:
    host = await start(HTTP_APP)
    await host.url()
    assert os.getpgid(host.process.pid) == os.getpgid(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_drains_deletes_what_was_done_and_ends_with_0(
    start: Start, tmp_path: Path, queue: Queue, number: signal.Signals
) -> None:
    await queue.send("under way")
    host = await start(QUEUE_APP, QUEUE=queue.name)
    await eventually(lambda: "working on try 1" in host.out, 30)
    host.process.send_signal(number)
    await eventually(lambda: "Stopping" in host.out)
    (tmp_path / "go").touch()
    assert await host.ended() == 0
    assert await queue.count() == 0
    assert host.err == ""


async def test_clients_tasks_and_hooks_that_the_app_leaves_open_do_not_show_at_the_end(start: Start) -> None:
    app = """
import aiohttp, asyncio, atexit
import azure.functions as func

app = func.FunctionApp()
session = aiohttp.ClientSession()
atexit.register(print, "a hook that Azure would not call")

async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

task = asyncio.get_running_loop().create_task(stubborn())
"""
    host = await start(app)
    await host.url()
    host.process.terminate()
    assert await asyncio.wait_for(host.ended(), 10) == 0
    assert host.err == ""
    assert "a hook that" not in host.out


async def test_a_second_ctrl_c_ends_at_once(start: Start, queue: Queue) -> None:
    await queue.send("under way")
    host = await start(QUEUE_APP, QUEUE=queue.name)
    await eventually(lambda: "working on try 1" in host.out, 30)
    host.process.send_signal(signal.SIGINT)
    await eventually(lambda: "Stopping" in host.out)
    host.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(host.ended(), 5) == 1
    assert await queue.count() == 1


async def test_a_killed_host_leaves_its_message_to_the_next(start: Start, tmp_path: Path, queue: Queue) -> None:
    await queue.send("under way")
    lease = {"QUEUE": queue.name, "HERALD_LOCAL_VISIBILITY_SECONDS": "1"}
    first = await start(QUEUE_APP, **lease)
    await eventually(lambda: "working on try 1" in first.out, 30)
    first.process.kill()
    await first.ended()
    (tmp_path / "go").touch()
    second = await start(QUEUE_APP, **lease)
    await eventually(lambda: "working on try 2" in second.out, 30)
    await eventually(lambda: _is_empty(queue))


async def test_with_stop_with_stdin_it_drains_when_its_parent_is_gone(start: Start) -> None:
    host = await start(HTTP_APP, "--port", "0", "--stop-with-stdin")
    await host.url()
    assert host.process.stdin is not None
    host.process.stdin.close()
    assert await host.ended() == 0


async def test_without_it_the_end_of_stdin_means_nothing(start: Start) -> None:
    host = await start(HTTP_APP)
    assert host.process.stdin is not None
    host.process.stdin.close()
    async with aiohttp.request("GET", f"{await host.url()}/admin/host/status") as answer:
        assert answer.status == 200


async def test_a_taken_port_is_one_line_before_anything_is_consumed(start: Start, queue: Queue) -> None:
    await queue.send("stays")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        host = await start(QUEUE_APP, "--port", str(port), QUEUE=queue.name)
        assert await host.ended() == 1
    assert re.fullmatch(rf"Port {port} is taken: .*--port.*\n", host.err)
    assert "working" not in host.out
    assert [message.dequeue_count for message in await queue.client.peek_messages()] == [0]


@pytest.mark.parametrize(
    ("app", "line"),
    [
        (
            "from shared.states import SettingsError\nraise SettingsError('A is missing: set it')",
            "A is missing: set it",
        ),
        ("import nowhere", "function_app.py cannot be imported: ModuleNotFoundError: No module named 'nowhere' .*"),
        ("def f(:", "function_app.py cannot be imported: SyntaxError: .*"),
        ("", "function_app.py must hold one FunctionApp, and holds 0"),
        (QUEUE_APP, "function work: %QUEUE% is not set: .*"),
    ],
)
async def test_an_app_that_cannot_start_is_one_line_and_exit_1(start: Start, app: str, line: str) -> None:
    host = await start(app)
    assert await host.ended() == 1
    assert re.fullmatch(f"{line}\n", host.err), host.err
    assert "Listening" not in host.out


async def test_a_port_that_is_none_is_refused(start: Start) -> None:
    host = await start(HTTP_APP, "--port", "65536")
    assert await host.ended() == 2
    assert "--port must be from 0 to 65535" in host.err


async def test_verbose_shows_where_an_import_fails(start: Start) -> None:
    host = await start("import nowhere", "--port", "0", "--verbose")
    assert await host.ended() == 1
    assert "Traceback" in host.err


async def test_require_keys_needs_a_key_and_asks_for_it(start: Start) -> None:
    without = await start(HTTP_APP, "--port", "0", "--require-keys")
    assert await without.ended() == 1
    assert re.fullmatch(r"HERALD_LOCAL_KEY is not set: .*\n", without.err)
    locked = HTTP_APP.replace("anonymous", "function")
    host = await start(locked, "--port", "0", "--require-keys", HERALD_LOCAL_KEY="k")
    url = await host.url()
    for key, status in (("wrong", 401), ("k", 200)):
        async with aiohttp.request("GET", f"{url}/api/state", headers={"x-functions-key": key}) as answer:
            assert answer.status == status


async def test_a_synchronous_function_that_never_ends_does_not_hold_the_process(start: Start, queue: Queue) -> None:
    app = QUEUE_APP.replace("async def", "def").replace("await asyncio.sleep", "__import__('time').sleep")
    app += "\nfrom local.host import host\nhost.GRACE = 0.2\n"
    await queue.send("hangs")
    host = await start(app, QUEUE=queue.name)
    await eventually(lambda: "working on try 1" in host.out, 30)
    host.process.terminate()
    assert await asyncio.wait_for(host.ended(), 10) == 1
    assert "did not finish" in host.err


async def _is_empty(queue: Queue) -> bool:
    return await queue.count() == 0
