"""The send step, beside other ways to send the same card: each in a process of its own, against one fake Teams.

The fake answers over TLS after 80 ms. Contenders take turns, each time in a new process: what a process does
once (connect, fetch a token) is counted from its start; speed and CPU after one message for each in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import certifi
import orjson

from benchmarks.contenders.world import Chat, World
from benchmarks.cores import pinned
from benchmarks.report import Options, Report, Run, medians, ratio
from local.fake_teams.client import FakeTeams
from shared.cards.notification import render_activity
from shared.contract.parsing import parse_stored

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".local" / "peers" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
#: Seconds before each answer of the fake.
LATENCY = 0.08
#: Personal chats that are sent to in turn.
PEOPLE = 2000
#: Requests in flight.
LEVELS = (1, 16, 32, 100)
QUICK_LEVELS = (1, 32)
#: A run sends so many messages one after the other in each place in flight, up to `most` of its contender.
WAVES = 25
#: Messages over which the growth of memory is measured, and how many are in flight meanwhile.
GROWTH, GROWTH_IN_FLIGHT = 2000, 32
#: Seconds after which a run is given up.
PATIENCE = 300


@dataclass(frozen=True)
class Contender:
    """A module of `benchmarks.contenders`; `most` is how many messages a run sends at most, twice its in-flight at
    least; `once` runs a single time."""

    module: str
    title: str
    most: int = 2500
    peer: bool = True
    once: bool = False


HERALD = Contender("herald", "Herald", peer=False)
BARE = Contender("bare", "bare aiohttp POST", peer=False)
SAMPLE = Contender("sample", "Microsoft's sample, constant token", most=64)
SAMPLE_MSAL = Contender("sample_msal", "Microsoft's sample, msal", most=25, once=True)
AGENTS = Contender("agents_sdk", "microsoft-agents-hosting-core")
TEAMS = Contender("teams_sdk", "microsoft-teams-apps")
CONTENDERS = (HERALD, BARE, SAMPLE, SAMPLE_MSAL, AGENTS, TEAMS)

HEADS = (
    "", "msg/s", "CPU ms a message", "Herald's CPU to it", "connections", "a message", "tokens", "longest lag, ms",
)  # fmt: skip
CONTENT = {
    "title": "Build 42 failed",
    "text": "Stage test failed after 12 minutes.",
    "facts": [{"title": "Branch", "value": "main"}, {"title": "Commit", "value": "4f2a9c1"}],
    "link": {"title": "Open", "url": "https://ci.example.com/builds/42"},
}


async def run(options: Options) -> Report:
    contenders = [each for each in CONTENDERS if PEERS.exists() or not each.peer]
    levels = QUICK_LEVELS if options.quick else LEVELS
    runs: defaultdict[str, defaultdict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    growth: dict[str, float] = {}
    async with _fake() as (teams, world):
        for turn in range(options.runs):
            for level in levels:
                for each in contenders:
                    if not (each.once and turn):
                        messages = max(2 * level, min(WAVES * level, each.most))
                        runs[each.module][level].append(await _measure(teams, world, each, level, messages))
        for each in contenders:
            if each is HERALD or not (options.quick or each.once):
                growth[each.module] = (await _measure(teams, world, each, GROWTH_IN_FLIGHT, GROWTH))["growth_mb"]
    return _report(contenders, levels, runs, growth)


@asynccontextmanager
async def _fake() -> AsyncIterator[tuple[FakeTeams, Path]]:
    """A fake Teams, and the file that tells contenders of it."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herald-bench-")))
        with pinned(measured=False):
            starting = FakeTeams.start("--no-limits", "--latency", str(LATENCY), people=PEOPLE)
            teams = await stack.enter_async_context(starting)
        bundle = await asyncio.to_thread(_bundle, teams, folder)
        world = folder / "world.json"
        (await _world(teams, bundle)).save(world)
        teams.settings |= {"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)}
        yield teams, world


def _bundle(teams: FakeTeams, folder: Path) -> Path:
    """The fake's CA among those of the public: as many as a real deployment trusts, and some read for each message."""
    assert teams.ca_file
    bundle = folder / "ca.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + teams.ca_file.read_bytes())
    return bundle


async def _world(teams: FakeTeams, trusted: Path) -> World:
    data = orjson.dumps({"recipients": [{"all": True}], "category": "benchmark", "content": CONTENT})
    drawn = orjson.loads(render_activity(parse_stored(data), 100 * 1024))
    settings = teams.settings
    asked = {
        "grant_type": "client_credentials",
        "client_id": teams.app_id,
        "client_secret": settings["MicrosoftAppPassword"],
        "scope": "https://api.botframework.com/.default",
    }
    authority, context = settings["ToChannelFromBotLoginUrl"], ssl.create_default_context(cafile=trusted)
    url = f"{authority}/oauth2/v2.0/token"
    async with aiohttp.ClientSession() as session, session.post(url, data=asked, ssl=context) as answer:
        token = (await answer.json())["access_token"]
    return World(
        tenant=teams.tenant,
        app_id=teams.app_id,
        secret=asked["client_secret"],
        authority=authority,
        service_url=teams.service_url,
        token=token,
        card=drawn["attachments"][0]["content"],
        summary=drawn["summary"],
        chats=[Chat(each.conversation, each.id) for each in (await teams.world()).people],
    )


async def _measure(teams: FakeTeams, world: Path, contender: Contender, level: int, messages: int) -> Run:
    await teams.reset()
    python = str(PEERS) if contender.peer else sys.executable
    with pinned(measured=True):
        process = await asyncio.create_subprocess_exec(
            python, "-m", "benchmarks.contenders", contender.module, str(world), str(level), str(messages),
            cwd=ROOT, env={**os.environ, **teams.settings, "PYTHONWARNINGS": "ignore"}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{contender.title} ended with {process.returncode}")
    stats = await teams.stats()
    figures: dict[str, float] = json.loads(output)
    assert stats.messages == figures["sent"], f"{contender.title}: {stats.messages} of {figures['sent']} arrived"
    return figures | {"connections": stats.connections.get("connector", 0), "tokens": stats.count("token")}


Runs = Mapping[str, Mapping[int, Sequence[Run]]]


def _report(contenders: Sequence[Contender], levels: Sequence[int], runs: Runs, growth: Mapping[str, float]) -> Report:
    report = Report({"latency_s": LATENCY, "runs": runs, "growth_mb": growth})
    for level in levels:
        report.say(f"{level} in flight (the latency allows {level / LATENCY:,.0f} a second)")
        rows = []
        for each in contenders:
            made = runs[each.module][level]
            found = medians(made)
            cpu = ratio(runs["herald"][level][: len(made)], made, "cpu_ms")
            rows.append([
                each.title, found["per_second"], found["cpu_ms"], f"1/{1 / cpu:.1f}", f"{found['connections']:.0f}",
                found["connections"] / found["sent"], f"{found['tokens']:.0f}", found["lag_ms"],
            ])  # fmt: skip
        report.table(HEADS, rows)
    report.say(f"Growth of memory over {GROWTH} messages, {GROWTH_IN_FLIGHT} in flight")
    report.table(("", "MB"), [[each.title, growth[each.module]] for each in contenders if each.module in growth])
    return report
