"""`local.processes`: start, check and stop the programs of the local stack."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import aiohttp.web
import pytest
from aiohttp.test_utils import TestServer
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import QueueClient

from local.processes import ROOT, Azurite, FunctionHost, Playground, Program, ProgramError, free_port, is_taken
from local.send import API_VERSION
from tests.support.local_stack import eventually

linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the listening addresses from /proc")

APP = """
import json, os
import azure.functions as func

app = func.FunctionApp()

@app.route("environment", auth_level=func.AuthLevel.ANONYMOUS)
async def environment(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(dict(os.environ)))
"""

PARENT = """
import sys, time
from pathlib import Path
from local.processes import Azurite, FunctionHost, Playground

folder = Path(sys.argv[1])
with Azurite(folder) as azurite, Playground(folder, "http://127.0.0.1:9/") as playground:
    settings = {"AzureWebJobsStorage": azurite.connection_string()}
    with FunctionHost(folder, settings, app=folder / "app") as host:
        print(azurite.pid, playground.pid, host.pid, flush=True)
        time.sleep(600)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The folder of an app that returns its environment."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "function_app.py").write_text(APP)
    (folder / "host.json").write_text('{"version": "2.0"}')
    return folder


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Another program that listens on all addresses."""
    with socket.socket() as server:
        server.bind(("0.0.0.0", free_port()))
        server.listen()
        yield server


def start_sleeper(folder: Path) -> Program:
    """Start a program that does nothing, until its standard input ends."""

    class Sleeper(Program):
        name = "The sleeper"

    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    return Sleeper(command, folder / "sleeper.log", {}, folder, "Listening", "http://127.0.0.1:9/")


def is_gone(pid: int) -> bool:
    """Return whether the process has ended; a zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def queue(connection_string: str) -> QueueClient:
    return QueueClient.from_connection_string(connection_string, "things", api_version=API_VERSION)


def addresses(port: int) -> set[str]:
    """Return the addresses that listen on `port`, in the hexadecimal format of Linux."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        if (file := Path("/proc/net", table)).exists()
        for line in file.read_text().splitlines()[1:]
    ]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == port}


@linux
def test_all_programs_listen_only_on_loopback_and_the_host_stops_gracefully(
    azurite: Azurite, connection: str, app: Path, tmp_path: Path
) -> None:
    settings = {"AzureWebJobsStorage": connection}
    with Playground(tmp_path, "http://127.0.0.1:9/") as playground, FunctionHost(tmp_path, settings, app=app) as host:
        for port in (*azurite.ports, playground.port, host.port):
            assert addresses(port) == {"0100007F"}  # 127.0.0.1
        host.stop()
        assert host.process.returncode == 0
    assert not is_taken(playground.port)


def test_accounts_of_azurite_are_separate(azurite: Azurite, connection: str) -> None:
    with queue(connection) as one:
        one.create_queue()
    with queue(azurite.connection_string("people")) as two, pytest.raises(ResourceNotFoundError):
        two.peek_messages()


def test_data_of_azurite_survives_a_stop(tmp_path: Path) -> None:
    with Azurite(tmp_path, data=tmp_path / "data") as azurite, queue(azurite.connection_string()) as things:
        things.create_queue()
        things.send_message("kept")
    assert azurite.process.returncode == 0
    with Azurite(tmp_path, data=tmp_path / "data") as azurite, queue(azurite.connection_string()) as things:
        assert [message.content for message in things.peek_messages()] == ["kept"]


def test_program_that_ends_at_its_start_is_one_line_with_its_last_output(
    listener: socket.socket, tmp_path: Path
) -> None:
    azurite = Azurite(tmp_path, ports=(listener.getsockname()[1], free_port(), free_port()))
    with pytest.raises(ProgramError) as caught, azurite:
        pytest.fail("it is not healthy")
    assert "Azurite has ended with exit code 1" in str(caught.value)
    assert "EADDRINUSE" in str(caught.value)
    assert str(azurite.log) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_program_that_is_not_healthy_in_time_is_named(tmp_path: Path) -> None:
    sleeper = start_sleeper(tmp_path)
    try:
        with pytest.raises(ProgramError, match=r"^The sleeper is not healthy after 0 s: no output"):
            sleeper.wait_until_healthy(0)
    finally:
        sleeper.kill()
    with pytest.raises(ProgramError, match=r"^The sleeper has ended with exit code "):
        sleeper.check()


def test_playground_on_another_port_is_refused(listener: socket.socket, tmp_path: Path) -> None:
    playground = Playground(tmp_path, "http://127.0.0.1:9/", port=listener.getsockname()[1])
    with pytest.raises(ProgramError, match=rf"^Port {playground.port} \(the Playground\) was taken"), playground:
        pytest.fail("it serves on another port")
    assert playground.process.returncode is not None


async def test_page_closed_while_loading_does_not_end_the_playground(tmp_path: Path) -> None:
    """It starts on another port than one before it with the same log folder."""
    log = tmp_path / "playground.log"
    log.write_text("Listening on 1")
    connected = asyncio.Barrier(4)

    async def poll_page(http: aiohttp.ClientSession) -> None:
        async with http.ws_connect("/_ws/log/stream") as log:
            await connected.wait()
            async for _ in log:
                pass

    async with TestServer(aiohttp.web.Application()) as bot:
        with Playground(tmp_path, str(bot.make_url("/"))) as playground:
            for _ in range(3):
                async with aiohttp.ClientSession(playground.url) as http:
                    pages = [asyncio.create_task(poll_page(http)) for _ in range(3)]
                    await connected.wait()
                    await http.get("/_internal/v1/config")
                    await http.get("/_internal/v1/config")
                    for page in pages:
                        page.cancel()
                    await asyncio.gather(*pages, return_exceptions=True)
            async with aiohttp.ClientSession(playground.url) as http, http.get("/_debug/ping") as answer:
                assert answer.status == 200


def test_app_has_only_the_given_settings(
    connection: str, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app / "local.settings.json").write_text(json.dumps({"Values": {"MicrosoftAppPassword": "of the file"}}))
    monkeypatch.setenv("MicrosoftAppId", "of the environment")
    monkeypatch.setenv("HERALD_UNKNOWN", "of the environment")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    given = {"AzureWebJobsStorage": connection, "HERALD_TENANT_RATE": "7"}
    with FunctionHost(tmp_path, given, app=app) as host:
        seen = json.loads(urllib.request.urlopen(f"{host.url}/api/environment").read())
    assert {name: seen[name] for name in given} == given
    assert seen["MicrosoftAppId"] == seen["MicrosoftAppPassword"] == ""
    assert seen.keys().isdisjoint({"HERALD_UNKNOWN", "HTTPS_PROXY"})


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_program_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    sleeper = start_sleeper(tmp_path)
    os.kill(sleeper.pid, signal.SIGSTOP)
    sleeper.stop(grace=0.1)
    assert sleeper.process.returncode == -signal.SIGKILL


@linux
def test_all_programs_end_when_their_parent_is_killed(app: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(map(is_gone, pids))
        parent.kill()
    assert eventually(lambda: all(map(is_gone, pids)))


def test_port_with_a_listener_on_all_addresses_is_taken(listener: socket.socket) -> None:
    assert is_taken(listener.getsockname()[1])
