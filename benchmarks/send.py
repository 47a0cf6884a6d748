"""The send step compared with other ways to send the same card, each in its own process, against one fake Teams.

The fake Teams answers over TLS after 80 ms. The contenders alternate, each time in a new process: connections and
tokens are counted from its start, speed and CPU after one message for each in flight.
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

from benchmarks.contenders.workload import Chat, Workload
from benchmarks.cores import pin_processes
from benchmarks.report import Options, Report, Run, median_ratio, medians
from local.bootstrap import BENCH_ALONE
from local.fake_teams.client import FakeTeams
from shared.cards.notification import render_activity
from shared.contract.parsing import parse_stored

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".local" / "peers" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
#: The delay of each answer of the fake Teams.
LATENCY_SECONDS = 0.08
#: The number of personal chats, which get messages in turn.
PEOPLE = 2000
IN_FLIGHT_LEVELS = (1, 16, 32, 100)
QUICK_IN_FLIGHT_LEVELS = (1, 32)
#: The messages of a run for each one in flight, up to the `max_messages` of the contender.
MESSAGES_PER_IN_FLIGHT = 25
#: The messages over which the growth of memory is measured, and how many of them are in flight.
GROWTH_MESSAGES, GROWTH_IN_FLIGHT = 2000, 32
RUN_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Contender:
    """A module of `benchmarks.contenders`; `is_peer` if it runs in the environment of the peers.

    A run sends at most `max_messages`, but at least two for each in flight. With `runs_once` there is a single run.
    """

    module: str
    title: str
    max_messages: int = 2500
    is_peer: bool = True
    runs_once: bool = False


HERALD = Contender("herald", "Herald", is_peer=False)
BARE = Contender("bare", "bare aiohttp POST", is_peer=False)
SAMPLE = Contender("sample", "Microsoft's sample, constant token", max_messages=64)
SAMPLE_MSAL = Contender("sample_msal", "Microsoft's sample, msal", max_messages=25, runs_once=True)
AGENTS = Contender("agents_sdk", "microsoft-agents-hosting-core")
TEAMS = Contender("teams_sdk", "microsoft-teams-apps")
CONTENDERS = (HERALD, BARE, SAMPLE, SAMPLE_MSAL, AGENTS, TEAMS)

HEADINGS = (
    "", "msg/s", "CPU ms a message", "Herald's CPU relative to it", "connections", "connections a message", "tokens",
    "longest lag, ms",
)  # fmt: skip
CONTENT = {
    "title": "Build 42 failed",
    "text": "Stage test failed after 12 minutes.",
    "facts": [{"title": "Branch", "value": "main"}, {"title": "Commit", "value": "4f2a9c1"}],
    "link": {"title": "Open", "url": "https://ci.example.com/builds/42"},
}


async def run(options: Options) -> Report:
    with_peers = PEERS_PYTHON.exists() and not os.environ.get(BENCH_ALONE)
    contenders = [contender for contender in CONTENDERS if with_peers or not contender.is_peer]
    levels = QUICK_IN_FLIGHT_LEVELS if options.quick else IN_FLIGHT_LEVELS
    runs: defaultdict[str, defaultdict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    growth: dict[str, float] = {}
    async with _start_fake_teams() as (teams, workload):
        for number in range(options.runs):
            for level in levels:
                for contender in contenders:
                    if not (contender.runs_once and number):
                        messages = max(2 * level, min(MESSAGES_PER_IN_FLIGHT * level, contender.max_messages))
                        figures = await _run_contender(teams, workload, contender, level, messages)
                        runs[contender.module][level].append(figures)
        for contender in contenders:
            if contender is HERALD or not (options.quick or contender.runs_once):
                figures = await _run_contender(teams, workload, contender, GROWTH_IN_FLIGHT, GROWTH_MESSAGES)
                growth[contender.module] = figures["growth_mb"]
    return _report(contenders, levels, runs, growth)


@asynccontextmanager
async def _start_fake_teams() -> AsyncIterator[tuple[FakeTeams, Path]]:
    """Start a fake Teams, and yield it with the file of the contenders' workload."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herald-bench-")))
        with pin_processes(measured=False):
            fake = FakeTeams.start("--no-limits", "--latency", str(LATENCY_SECONDS), people=PEOPLE)
            teams = await stack.enter_async_context(fake)
        bundle = await asyncio.to_thread(_write_ca_bundle, teams, folder)
        workload = folder / "workload.json"
        (await _create_workload(teams, bundle)).save(workload)
        teams.settings |= {"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)}
        yield teams, workload


def _write_ca_bundle(teams: FakeTeams, folder: Path) -> Path:
    """Add the fake's CA to the public CAs: some contenders read them all for each message, as in a real deployment."""
    assert teams.ca_file
    bundle = folder / "ca.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + teams.ca_file.read_bytes())
    return bundle


async def _create_workload(teams: FakeTeams, ca_bundle: Path) -> Workload:
    data = orjson.dumps({"recipients": [{"all": True}], "category": "benchmark", "content": CONTENT})
    activity = orjson.loads(render_activity(parse_stored(data), 100 * 1024))
    settings = teams.settings
    token_request = {
        "grant_type": "client_credentials",
        "client_id": teams.app_id,
        "client_secret": settings["MicrosoftAppPassword"],
        "scope": "https://api.botframework.com/.default",
    }
    authority, context = settings["ToChannelFromBotLoginUrl"], ssl.create_default_context(cafile=ca_bundle)
    url = f"{authority}/oauth2/v2.0/token"
    async with aiohttp.ClientSession() as session, session.post(url, data=token_request, ssl=context) as answer:
        token = (await answer.json())["access_token"]
    return Workload(
        tenant=teams.tenant,
        app_id=teams.app_id,
        secret=token_request["client_secret"],
        authority=authority,
        service_url=teams.service_url,
        token=token,
        card=activity["attachments"][0]["content"],
        summary=activity["summary"],
        chats=[Chat(person.conversation, person.id) for person in (await teams.world()).people],
    )


async def _run_contender(teams: FakeTeams, workload: Path, contender: Contender, in_flight: int, messages: int) -> Run:
    await teams.reset()
    python = str(PEERS_PYTHON) if contender.is_peer else sys.executable
    with pin_processes(measured=True):
        process = await asyncio.create_subprocess_exec(
            python, "-m", "benchmarks.contenders", contender.module,
            str(workload), str(in_flight), str(messages),
            cwd=ROOT, env={**os.environ, **teams.settings, "PYTHONWARNINGS": "ignore"}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{contender.title} ended with exit code {process.returncode}")
    stats = await teams.stats()
    figures: dict[str, float] = json.loads(output)
    assert stats.messages == figures["sent"], f"{contender.title}: {stats.messages} of {figures['sent']} arrived"
    return figures | {"connections": stats.connections.get("connector", 0), "tokens": stats.count("token")}


#: Runs by module of the contender and number in flight.
Runs = Mapping[str, Mapping[int, Sequence[Run]]]


def _report(contenders: Sequence[Contender], levels: Sequence[int], runs: Runs, growth: Mapping[str, float]) -> Report:
    report = Report({"latency_s": LATENCY_SECONDS, "runs": runs, "growth_mb": growth})
    for level in levels:
        report.add_line(f"{level} in flight (the latency allows {level / LATENCY_SECONDS:,.0f} a second)")
        rows = []
        for contender in contenders:
            level_runs = runs[contender.module][level]
            figures = medians(level_runs)
            cpu = median_ratio(runs["herald"][level][: len(level_runs)], level_runs, "cpu_ms")
            rows.append([
                contender.title, figures["per_second"], figures["cpu_ms"], f"1/{1 / cpu:.1f}",
                f"{figures['connections']:.0f}", figures["connections"] / figures["sent"], f"{figures['tokens']:.0f}",
                figures["lag_ms"],
            ])  # fmt: skip
        report.add_table(HEADINGS, rows)
    report.add_line(f"Growth of memory over {GROWTH_MESSAGES} messages, {GROWTH_IN_FLIGHT} in flight")
    titles = {contender.module: contender.title for contender in contenders}
    report.add_table(("", "MB"), [[titles[module], megabytes] for module, megabytes in growth.items()])
    return report
