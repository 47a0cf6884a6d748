"""The host as a separate process: its output, its exit codes, and its signals."""

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
from tests.host.conftest import HostQueue, eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

#: Returns what it found in the environment at import.
HTTP_APP = """
import asyncio, os
import azure.functions as func

app = func.FunctionApp()
in_loop = asyncio.get_running_loop() is not None

@app.route(route="state", auth_level="anonymous")
async def state(req: func.HttpRequest) -> str:
    return f"{in_loop} {os.environ['AZURE_FUNCTIONS_ENVIRONMENT']} {os.environ.get('GIVEN')} {os.environ.get('FILED')}"
"""

#: Processes each message until the file `go` exists.
QUEUE_APP = """
import asyncio, os
import azure.functions as func

app = func.FunctionApp()

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="", data_type=func.DataType.BINARY)
async def work(msg: func.QueueMessage) -> None:
    print("working on attempt", msg.dequeue_count, flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
"""


class HostProcess:
    """A host process and its output so far."""

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

    async def wait(self) -> int:
        """Wait for the end of the process; return its exit code."""
        code = await asyncio.wait_for(self.process.wait(), 40)
        await asyncio.gather(*self._readers)
        return code

    async def _read(self, stream: asyncio.StreamReader, name: str) -> None:
        while chunk := await stream.read(4096):
            setattr(self, name, getattr(self, name) + chunk.decode())


class StartHost(Protocol):
    async def __call__(self, app: str, *arguments: str, **environ: str) -> HostProcess: ...


@pytest.fixture
async def start_host(tmp_path: Path, environ: dict[str, str]) -> AsyncIterator[StartHost]:
    """Start the host with the source text of an app, on any port, in a folder with a host.json."""
    started: list[HostProcess] = []
    host_json = {"extensions": {"queues": {"messageEncoding": "none", "maxPollingInterval": "00:00:00.1"}}}
    (tmp_path / "host.json").write_text(json.dumps(host_json))

    async def start(app: str, *arguments: str, **more: str) -> HostProcess:
        (tmp_path / "function_app.py").write_text(app)
        values = {**os.environ, **environ, "PYTHONPATH": str(ROOT), **more}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "local.host", *(arguments or ("--port", "0")),
            cwd=tmp_path, env=values,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started.append(HostProcess(process))
        return started[-1]

    yield start
    for host in started:
        if host.process.returncode is None:
            host.process.kill()
        await host.wait()


async def test_app_is_imported_inside_the_loop_with_its_settings(start_host: StartHost, tmp_path: Path) -> None:
    values = {"GIVEN": "file", "FILED": "file"}
    (tmp_path / "local.settings.json").write_text(json.dumps({"Values": values}))
    host = await start_host(HTTP_APP, GIVEN="environment", AZURE_FUNCTIONS_ENVIRONMENT="Staging")
    async with aiohttp.request("GET", f"{await host.url()}/api/state") as response:
        assert await response.text() == "True Staging environment file"
    assert re.search(r"state: \[any method\] http://127\.0\.0\.1:\d+/api/state\nListening on http", host.out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signal_drains_deletes_processed_messages_and_exits_with_0(
    start_host: StartHost, tmp_path: Path, queue: HostQueue, number: signal.Signals
) -> None:
    await queue.send("in progress")
    host = await start_host(QUEUE_APP, QUEUE=queue.name)
    await eventually(lambda: "working on attempt 1" in host.out, 30)
    host.process.send_signal(number)
    await eventually(lambda: "Stopping" in host.out)
    (tmp_path / "go").touch()
    assert await host.wait() == 0
    assert await queue.count() == 0
    assert host.err == ""


async def test_open_clients_tasks_and_exit_hooks_of_the_app_are_ignored(start_host: StartHost) -> None:
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
    host = await start_host(app)
    await host.url()
    host.process.terminate()
    assert await asyncio.wait_for(host.wait(), 10) == 0
    assert host.err == ""
    assert "a hook that" not in host.out


async def test_second_ctrl_c_ends_at_once(start_host: StartHost, queue: HostQueue) -> None:
    await queue.send("in progress")
    host = await start_host(QUEUE_APP, QUEUE=queue.name)
    await eventually(lambda: "working on attempt 1" in host.out, 30)
    host.process.send_signal(signal.SIGINT)
    await eventually(lambda: "Stopping" in host.out)
    host.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(host.wait(), 5) == 1
    assert await queue.count() == 1


async def test_next_host_processes_the_message_of_a_killed_one(
    start_host: StartHost, tmp_path: Path, queue: HostQueue
) -> None:
    await queue.send("in progress")
    lease = {"QUEUE": queue.name, "HERALD_LOCAL_VISIBILITY_SECONDS": "1"}
    first = await start_host(QUEUE_APP, **lease)
    await eventually(lambda: "working on attempt 1" in first.out, 30)
    first.process.kill()
    await first.wait()
    (tmp_path / "go").touch()
    second = await start_host(QUEUE_APP, **lease)
    await eventually(lambda: "working on attempt 2" in second.out, 30)
    await eventually(lambda: _is_empty(queue))


async def test_stop_with_stdin_drains_when_stdin_ends(start_host: StartHost) -> None:
    host = await start_host(HTTP_APP, "--port", "0", "--stop-with-stdin")
    await host.url()
    assert host.process.stdin is not None
    host.process.stdin.close()
    assert await host.wait() == 0


async def test_host_stays_in_the_process_group_of_its_parent_and_ignores_the_end_of_stdin(
    start_host: StartHost,
) -> None:
    host = await start_host(HTTP_APP)
    assert host.process.stdin is not None
    host.process.stdin.close()
    async with aiohttp.request("GET", f"{await host.url()}/admin/host/status") as response:
        assert response.status == 200
    assert os.getpgid(host.process.pid) == os.getpgid(0)


async def test_taken_port_is_one_line_and_exit_1_before_a_message_is_received(
    start_host: StartHost, queue: HostQueue
) -> None:
    await queue.send("stays")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        host = await start_host(QUEUE_APP, "--port", str(port), QUEUE=queue.name)
        assert await host.wait() == 1
    assert re.fullmatch(rf"Port {port} is taken \(.*\): .*--port.*\n", host.err)
    assert "working" not in host.out
    assert [message.dequeue_count for message in await queue.client.peek_messages()] == [0]


async def test_require_keys_requires_a_key(start_host: StartHost) -> None:
    locked = HTTP_APP.replace("anonymous", "function")
    host = await start_host(locked, "--port", "0", "--require-keys", HERALD_LOCAL_KEY="k")
    url = await host.url()
    for key, status in (("wrong", 401), ("k", 200)):
        async with aiohttp.request("GET", f"{url}/api/state", headers={"x-functions-key": key}) as response:
            assert response.status == status


async def test_endless_synchronous_function_does_not_block_the_exit(start_host: StartHost, queue: HostQueue) -> None:
    app = QUEUE_APP.replace("async def", "def").replace("await asyncio.sleep", "__import__('time').sleep")
    app += "\nfrom local.host import host\nhost.DRAIN_SECONDS = 0.2\n"
    await queue.send("hangs")
    host = await start_host(app, QUEUE=queue.name)
    await eventually(lambda: "working on attempt 1" in host.out, 30)
    host.process.terminate()
    assert await asyncio.wait_for(host.wait(), 10) == 1
    assert "did not finish" in host.err


async def _is_empty(queue: HostQueue) -> bool:
    return await queue.count() == 0
