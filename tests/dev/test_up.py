"""`dev.py up`, with the real programs on ports of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path

import aiohttp
import pytest

from local.first_message import PERSON, TENANT, first_message
from local.processes import ROOT, Failed, FunctionHost, Playground, free_port, is_taken
from local.send import event
from shared.contract import parsing
from shared.preferences.preferences import FOREVER, Preferences
from shared.services import open_services
from shared.settings import load_settings
from shared.states import Mode, ReferenceKind
from shared.storage.clients import open_storage
from tests.e2e.playground import open_chat

REFUSES = """
import azure.functions as func

app = func.FunctionApp()

@app.route("messages", auth_level=func.AuthLevel.ANONYMOUS)
async def messages(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(status_code=403)
"""


@dataclass
class Up:
    """One run of `python -m local.up` in the folder `folder`."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(5)])

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        host, playground, *azurite = map(str, self.ports)
        command = [sys.executable, "-m", "local.up", "--host-port", host, "--playground-port", playground]
        command += ["--azurite-ports", *azurite]
        command += ["--data", str(self.folder / "data"), "--logs", str(self.folder / "log")]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env={**os.environ, **environ}, stdout=pipe, stderr=pipe, text=True
        )

    def is_over(self) -> bool:
        """Whether none of its programs listens any more."""
        return not any(map(is_taken, self.ports))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    found = Up(tmp_path)
    yield found
    assert eventually(found.is_over)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """What it says until it stays; it is killed if that takes too long."""
    assert process.stdout
    timer = threading.Timer(60, process.kill)
    timer.start()
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("Ctrl-C"):
            break
    timer.cancel()
    return said


def test_once_ends_with_0_when_the_first_message_is_delivered_whatever_the_environment_says(up: Up) -> None:
    misleading = {"MicrosoftAppId": "another", "WEBSITE_SITE_NAME": "another", "HTTP_PROXY": "http://127.0.0.1:9"}
    process = up.start("--once", **misleading)
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    steps = ["Azurite is healthy", "The Playground is", "The function host is", "Bot installed", "Put", "Accepted"]
    places = [said.index(step) for step in [*steps, "Delivered", "Stopping", "Stopped"]]
    assert places == sorted(places)
    assert up.is_over()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.full  # quick: SIGINT below, and that all ends with a killed parent in test_processes.py
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGKILL"])
def test_it_stays_until_a_signal_and_nothing_remains(up: Up, name: str) -> None:
    number = getattr(signal, name)
    with up.start() as process:
        said = wait_until_ready(process)
        assert f"http://127.0.0.1:{up.ports[1]}" in said
        assert not up.is_over()
        process.send_signal(number)
        assert process.wait(30) == (0 if name != "SIGKILL" else -number)
    assert eventually(up.is_over)


async def test_the_command_that_it_prints_sends_another_and_a_night_of_changing_clocks_passes_as_fast_as_is_said(
    up: Up, tmp_path: Path
) -> None:
    with up.start("--clock", "2027-03-28T00:59Z", "--speed", "60") as process:
        said = wait_until_ready(process)
        found = re.search(r"stands at 2027-03-28T00:59Z, and goes 60 times as fast from (\d\d:\d\d:\d\d) on", said)
        assert found
        printed = next(line for line in said.splitlines() if line.startswith("Send another:")).split(":", 1)[1]
        await send(up, printed, tmp_path, shown="Build 42 failed")
        command = f'"{sys.executable}" "{ROOT / "local" / "send.py"}" "Night shift" --at 2027-03-28T02:30'
        command += f" --zone Europe/Berlin --queue-port {up.ports[3]}"
        await send(up, command, tmp_path, shown="Night shift")
        now = datetime.now()  # noqa: DTZ005 (the time on the wall, as it is printed)
        begun = datetime.combine(now.date(), time_of_day.fromisoformat(found[1]))
        # 02:30 does not exist in Berlin, where clocks show 03:00 a minute later, which is a second.
        assert timedelta(seconds=1) <= (now - begun) % timedelta(days=1) < timedelta(minutes=10)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


async def send(up: Up, command: str, folder: Path, *, shown: str) -> None:
    """Run a command that puts a message on the queue; returns when the chat shows it."""
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{up.ports[1]}") as http,
        http.ws_connect("/_ws_conversation/v1/conversations/stream") as chat,
    ):
        sending = await asyncio.create_subprocess_shell(command, cwd=folder)
        assert await sending.wait() == 0
        async with asyncio.timeout(40):
            while shown not in await chat.receive_str():
                pass


def test_a_program_that_dies_is_named_and_ends_the_others(up: Up) -> None:
    with up.start() as process:
        wait_until_ready(process)
        os.kill(child(process.pid, "azurite.js"), signal.SIGKILL)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert errors.startswith("Azurite has ended with exit code -9: ")
    assert errors.count("\n") == 1


def child(parent: int, named: str) -> int:
    """The process id of the child of `parent` whose command line holds `named`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and named in (folder / "cmdline").read_text():
                return int(folder.name)
        except FileNotFoundError:  # it has just ended
            continue
    pytest.fail(f"no {named} below {parent}")


def test_a_taken_port_is_one_line_that_says_which_and_what_to_do(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", up.ports[1]))
        other.listen()
        process = up.start("--once")
        said, errors = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, "")
    assert errors.startswith(f"Port {up.ports[1]} for the Playground is taken by ")
    assert "choose another port with --playground-port" in errors
    assert errors.count("\n") == 1


async def test_a_first_message_that_fails_says_why(connection: str, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "function_app.py").write_text(REFUSES)
    (app / "host.json").write_text('{"version": "2.0"}')
    settings = {"AzureWebJobsStorage": connection, "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}
    with (
        FunctionHost(tmp_path, settings, app=app) as host,
        Playground(tmp_path, f"{host.url}/api/messages") as playground,
        pytest.raises(Failed, match=r"^The first message failed: the app answered .* with 403; .*"),
    ):
        await first_message(playground.url, settings, [playground, host], print)


def always(wants: Preferences) -> Callable[[Preferences], Preferences]:
    return lambda _: wants


async def test_a_first_message_that_its_reader_does_not_want_is_no_failure(connection: str, tmp_path: Path) -> None:
    wishes: Sequence[tuple[Preferences, str]] = (
        (Preferences(categories={"builds": Mode.DIGEST}), "queued (digest)"),
        (Preferences(paused_until=FOREVER), "queued (paused)"),
        (Preferences(stopped=True), "suppressed (optedOut)"),
    )
    with open_chat(connection, tmp_path) as chat:
        services = await open_services(load_settings(chat.settings), open_storage(chat.settings))
        for wants, why in wishes:
            said: list[str] = []
            await services.conversations.change_preferences(TENANT, ReferenceKind.USER, PERSON, always(wants))
            await first_message(chat.url, chat.settings, [], said.append)
            assert said[-1] == f"Not shown to Ada: it is {why}, as what was stored says that she wants"
        await services.close()


def test_what_send_puts_on_the_queue_fits_the_contract() -> None:
    request = parsing.parse_message(json.dumps(event({"title": "Hello"})).encode())
    assert isinstance(request, parsing.Request)
    assert [recipient.model_dump() for recipient in request.notification.recipients] == [{"user": PERSON}]
    assert request.id
