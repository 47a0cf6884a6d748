"""`dev.py up` with the real programs on free ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path

import aiohttp
import pytest

from local.first_message import PERSON
from local.processes import ROOT
from local.send import build_event
from shared.contract import parsing
from tests.support.local_stack import LocalStack, eventually, wait_until_ready


def test_once_exits_with_0_after_the_first_message_in_any_environment(stack: LocalStack) -> None:
    misleading = {"MicrosoftAppId": "another", "WEBSITE_SITE_NAME": "another", "HTTP_PROXY": "http://127.0.0.1:9"}
    process = stack.start("--once", **misleading)
    output, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    steps = ["Azurite is healthy", "The Playground is", "The function host is", "Bot installed", "Put", "Accepted"]
    positions = [output.index(step) for step in [*steps, "Delivered", "Stopping", "Stopped"]]
    assert positions == sorted(positions)
    assert stack.is_stopped()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.full  # quick: SIGINT in test_first_minute, and that all ends with a killed parent in test_processes.py
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGKILL"])
def test_stack_runs_until_a_signal_and_stops_all_programs(stack: LocalStack, name: str) -> None:
    number = getattr(signal, name)
    with stack.start() as process:
        output = wait_until_ready(process)
        assert f"http://127.0.0.1:{stack.ports[1]}" in output
        assert not stack.is_stopped()
        process.send_signal(number)
        assert process.wait(30) == (0 if name != "SIGKILL" else -number)
    assert eventually(stack.is_stopped)


async def test_printed_command_sends_the_clock_runs_at_its_speed_and_a_failed_program_stops_the_others(
    stack: LocalStack, tmp_path: Path
) -> None:
    """A second `up` meanwhile says where the chat is, and changes nothing."""
    chat = f"http://127.0.0.1:{stack.ports[1]}"
    already_running = f"`dev.py up` is already running, and its chat is {chat}: use it, or stop it with Ctrl-C there\n"
    with stack.start("--clock", "2027-03-28T00:59Z", "--speed", "60", "--clock-delay", "6") as process:
        output = wait_until_ready(process)
        found = re.search(r"stays at 2027-03-28T00:59Z until (\d\d:\d\d:\d\d), then runs 60 times as fast", output)
        assert found
        second = stack.start("--once")
        assert second.communicate(timeout=60) == ("", already_running)
        printed = next(line for line in output.splitlines() if line.startswith("Send another:")).split(":", 1)[1]
        await send_and_wait(stack, printed, ROOT, shown="Build 42 failed")
        command = f'"{sys.executable}" "{ROOT / "local" / "send.py"}" "Night shift" --at 2027-03-28T02:30'
        command += f" --zone Europe/Berlin --azurite-ports {' '.join(map(str, stack.ports[2:]))}"
        await send_and_wait(stack, command, tmp_path, shown="Night shift")
        now = datetime.now()  # noqa: DTZ005 (local time, as printed)
        begun = datetime.combine(now.date(), time_of_day.fromisoformat(found[1]))
        # 02:30 does not exist in Berlin; it becomes 03:00, a minute after the start, which is one second at this speed.
        assert timedelta(seconds=1) <= (now - begun) % timedelta(days=1) < timedelta(minutes=10)
        os.kill(find_child(process.pid, "m365agentsplayground"), signal.SIGKILL)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert errors.startswith("The Playground has ended with exit code -9: ")
    assert errors.count("\n") == 1
    assert eventually(stack.is_stopped)


async def send_and_wait(stack: LocalStack, command: str, folder: Path, *, shown: str) -> None:
    """Run a command that sends a message, and wait until the chat shows it."""
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{stack.ports[1]}") as http,
        http.ws_connect("/_ws_conversation/v1/conversations/stream") as chat,
    ):
        sending = await asyncio.create_subprocess_shell(command, cwd=folder)
        assert await sending.wait() == 0
        async with asyncio.timeout(40):
            while shown not in await chat.receive_str():
                pass


def find_child(parent: int, name: str) -> int:
    """Return the process id of the child of `parent` whose command line contains `name`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and name in (folder / "cmdline").read_text():
                return int(folder.name)
        except FileNotFoundError:  # it has just ended
            continue
    pytest.fail(f"process {parent} has no child {name}")


def test_taken_port_is_one_line_with_the_option(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", stack.ports[1]))
        other.listen()
        process = stack.start("--once")
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"Port {stack.ports[1]} for the Playground is taken by ")
    assert "choose another port with --playground-port" in errors
    assert errors.count("\n") == 1


def test_event_of_send_matches_the_contract() -> None:
    request = parsing.parse_message(json.dumps(build_event({"title": "Hello"})).encode())
    assert isinstance(request, parsing.Request)
    assert [recipient.model_dump() for recipient in request.notification.recipients] == [{"user": PERSON}]
    assert request.id
