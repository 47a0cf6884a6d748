from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from local.fake_teams.api import TeamsFault
from local.fake_teams.client import ROOT, FakeTeams
from tests.fake_teams.conftest import Bot, fetch_token, message, open_session


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local.fake_teams", *arguments,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield process, line.decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_process_with_0(number: signal.Signals) -> None:
    async with running() as (process, line):
        assert line.startswith("Fake Teams listening on https://127.0.0.1:")
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 15) == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_end_of_stdin_ends_the_process_with_0() -> None:
    async with running("--stop-with-stdin") as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_request_in_flight_is_answered_before_the_end(tmp_path: Path) -> None:
    async with running("--ca-file", str(tmp_path / "ca.pem"), "--stop-with-stdin") as (process, line):
        async with FakeTeams.connect(line.split()[-1], tmp_path / "ca.pem") as teams, open_session(teams) as session:
            bot = Bot(teams, session, (await fetch_token(teams, session)).body["access_token"])
            await teams.inject(TeamsFault(delay=1.0, accept=True))
            slow = asyncio.create_task(bot.send((await teams.world()).people[0].conversation))
            await teams.wait()
            assert process.stdin is not None
            process.stdin.close()
            assert (await slow).status == 201
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_taken_port_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with running("--port", str(taken.getsockname()[1])) as (process, line):
            assert await asyncio.wait_for(process.wait(), 15) == 1
            assert process.stderr is not None
            errors = (await process.stderr.read()).decode()
    assert line == ""
    assert len(errors.splitlines()) == 1
    assert "cannot listen" in errors


def listeners(process: int, port: int) -> list[str]:
    """Return the local addresses, in hexadecimal, on which the process listens with this port."""
    rows = []
    for family in ("tcp", "tcp6"):
        rows += Path(f"/proc/{process}/net/{family}").read_text().splitlines()[1:]
    columns = [row.split() for row in rows]
    return [each[1] for each in columns if each[3] == "0A" and each[1].endswith(f":{port:04X}")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_process_listens_only_on_loopback() -> None:
    async with running("--http") as (process, line):
        port = int(line.rpartition(":")[2])
        assert listeners(process.pid, port) == [f"0100007F:{port:04X}"]


async def test_settings_contain_everything_that_an_app_needs() -> None:
    async with FakeTeams.start(people=2) as teams:
        settings = teams.settings
        assert settings["ToChannelFromBotLoginUrl"] == f"{teams.url}/{teams.tenant}"
        assert settings["ToBotFromChannelOpenIdMetadataUrl"].startswith(teams.url)
        assert settings["HERALD_SERVICE_HOSTS"] == teams.url.removeprefix("https://")
        assert settings["HERALD_ALLOWED_TENANTS"] == settings["MicrosoftAppTenantId"] == teams.tenant
        assert settings["SSL_CERT_FILE"] == settings["REQUESTS_CA_BUNDLE"] == str(teams.ca_file)
        async with open_session(teams) as session:
            bot = Bot(teams, session, (await fetch_token(teams, session)).body["access_token"])
            person = (await teams.world()).people[1]
            assert (await bot.send(person.conversation, message("x"))).status == 201
        folder = Path(settings["SSL_CERT_FILE"]).parent
        assert folder.name in os.listdir(tempfile.gettempdir())
    assert folder.name not in os.listdir(tempfile.gettempdir())


async def test_plain_http_is_supported() -> None:
    async with FakeTeams.start("--http") as teams:
        assert teams.url.startswith("http://127.0.0.1:")
        assert "SSL_CERT_FILE" not in teams.settings
        async with aiohttp.ClientSession() as session:
            bot = Bot(teams, session, (await fetch_token(teams, session)).body["access_token"])
            team = (await teams.world()).teams[0]
            assert (await bot.call("GET", f"v3/teams/{quote(team.id, safe='')}")).status == 200
