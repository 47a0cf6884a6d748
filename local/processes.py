"""The programs of the local stack, as child processes: Azurite, the Playground and the function host.

Each listens on 127.0.0.1, writes into a log file, and is told to end by closing its standard input: the one
signal that every system has, and that reaches a child also when its parent was killed.

>>> with Azurite(folder) as azurite:            # in memory, on free ports
...     with FunctionHost(folder, {"AzureWebJobsStorage": azurite.connection_string()}) as host:
...         print(host.url)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from shared.settings import Settings

#: Seconds that a program may take until it is healthy.
START = 60.0
#: Seconds that a program may take to end by itself; then it is killed. The host lets running functions finish for 30 s.
GRACE = 35.0
#: Seconds between two looks at a program that starts.
LOOK = 0.03
#: Where free ports are looked for: below the ports that a system gives to outgoing connections.
FREE_PORTS = range(20_000, 32_000)
#: Which of them is tried next. Each process begins elsewhere: two seldom choose the same one at the same moment.
_NEXT = count(os.getpid() * 1009)

ROOT = Path(__file__).resolve().parents[1]
NODE_MODULES = ROOT / ".local" / "node" / "node_modules"
PRELOAD = ROOT / "local" / "node" / "preload.cjs"
PLAYGROUND_CONFIG = ROOT / "local" / "playground.json"

AZURITE_PORTS = (10000, 10001, 10002)
HOST_PORT = 7071
PLAYGROUND_PORT = 56150

#: Seconds for which Azurite keeps a connection that nobody uses. By itself it closes one after 5, into which a client
#: may be writing that keeps it for 15.
KEEP_ALIVE = 120

#: The account that every Azurite has, and its key, as published in its documentation.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_OPENER = build_opener(ProxyHandler({}))
#: Settings of the app that are not fields of `Settings`; `AzureWebJobsStorage__...` among them.
_APP_SETTINGS = ("azurewebjobs", "herald_", "website_", "functions_", "azure_functions_")


class Failed(Exception):
    """A program did not start or has ended; the text is one line for a person."""


class Program:
    """A child process, started by the constructor; as a context manager also waited for, and stopped at the end."""

    #: How the program calls itself, for people.
    name: str

    def __init__(
        self, command: Sequence[str | Path], log: Path, env: Mapping[str, str], cwd: Path, listening: str, health: str
    ) -> None:
        """`listening` is what it logs once it listens, a pattern; a GET of the URL `health` is then answered."""
        self.log = log
        self._listening = re.compile(listening)
        self._health = health
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        # Not in our process group: on Ctrl-C we end them, in the right order.
        group: int | None = 0
        flags = 0
        if sys.platform == "win32":
            group, flags = None, subprocess.CREATE_NEW_PROCESS_GROUP
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                process_group=group,
                creationflags=flags,
            )

    def __enter__(self) -> Self:
        try:
            self.wait_until_healthy()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text("utf-8", "replace")

    def last_words(self) -> str:
        """The end of its output as one line, and where the rest is."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return f"{' | '.join(lines[-3:])[-600:] or 'it wrote nothing'} (all of it: {self.log})"

    def check(self) -> None:
        """Raises `Failed` where it has ended."""
        if (code := self.process.poll()) is not None:
            raise Failed(f"{self.name} has ended with exit code {code}: {self.last_words()}")

    def wait_until_healthy(self, seconds: float = START) -> None:
        """Returns once it serves; raises `Failed` where it ends before, or does not within `seconds`."""
        deadline = time.monotonic() + seconds
        while not self._is_healthy():
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} is not healthy after {seconds:.0f} s: {self.last_words()}")
            time.sleep(LOOK)

    def _is_healthy(self) -> bool:
        # Its own word first: the port could be answered by another program.
        if not (found := self._listening.search(self.output())):
            return False
        self._heard(found)
        return answers(self._health)

    def _heard(self, listening: re.Match[str]) -> None:
        """Check the line of the log that says where the program listens."""

    def stop(self, grace: float = GRACE) -> None:
        """Ask it to end, and wait; after `grace` seconds kill it."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
        except BaseException:  # such as a second Ctrl-C
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, as a crash does (SIGKILL), and wait for that."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


class Azurite(Program):
    """The storage emulator; in memory unless it is given the folder `data`.

    `accounts` are names of accounts that share nothing, in place of the usual one; `ports` those of blob, queue, table.
    """

    name = "Azurite"

    def __init__(
        self,
        logs: Path,
        *,
        ports: tuple[int, int, int] | None = None,
        data: Path | None = None,
        accounts: Sequence[str] = (ACCOUNT,),
    ) -> None:
        self.ports = ports or (free_port(), free_port(), free_port())
        command = node("azurite")
        for service, port in zip(("blob", "queue", "table"), self.ports, strict=True):
            command += [f"--{service}Port", str(port), f"--{service}KeepAliveTimeout", str(KEEP_ALIVE)]
        # Clients newer than the emulator speak a newer version of the protocol: that of upstream's own may.
        command += ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        if data:
            data.mkdir(parents=True, exist_ok=True)
        super().__init__(
            [*command, *(["--location", str(data)] if data else ["--inMemoryPersistence"])],
            logs / "azurite.log",
            _environ({"AZURITE_ACCOUNTS": ";".join(f"{account}:{ACCOUNT_KEY}" for account in accounts)}),
            ROOT,
            listening="Azurite Table service is successfully listening",  # the last one that it starts
            health=f"http://127.0.0.1:{self.ports[1]}/{accounts[0]}?comp=list",
        )

    def connection_string(self, account: str = ACCOUNT) -> str:
        """For `AzureWebJobsStorage`, and for any client of Azure Storage."""
        return connection_string(self.ports, account)


class Playground(Program):
    """Microsoft 365 Agents Playground: a chat like that of Teams, and its Bot Connector, without tokens.

    `config` names its people and chats; `endpoint` is where the app takes activities.
    """

    name = "The Playground"

    def __init__(self, logs: Path, endpoint: str, *, port: int | None = None, config: Path = PLAYGROUND_CONFIG) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._own_log = logs / "playground.log"
        self._own_log.unlink(missing_ok=True)  # what an earlier one heard must not be taken for its words
        # A client that leaves while the Playground logs becomes a rejection that nobody handles, and ended it.
        command = node("@microsoft/m365agentsplayground", "--unhandled-rejections=warn")
        command += ["-e", endpoint, "-c", "msteams", "-p", str(self.port), "--su", f"{self.url}/_connector", "--dt"]
        env = {
            "TEAMSAPPTESTER_BROWSER": "none",
            "M365_AGENTS_PLAYGROUND_CONFIG_PATH": str(config),
            "M365_AGENTS_PLAYGROUND_LOGFILE": str(self._own_log),
            "APPLICATION_INSIGHTS_NO_STATSBEAT": "1",  # what --dt leaves on
        }
        super().__init__(
            command,
            logs / "playground-output.log",
            _environ(env),
            ROOT,
            listening=r"Listening on (\d+)",
            health=f"{self.url}/_debug/ping",
        )

    def output(self) -> str:
        # It writes its own log, which it deletes when it starts, and hardly anything to its output.
        own = self._own_log.read_text("utf-8", "replace") if self._own_log.exists() else ""
        return own + super().output()

    def _heard(self, listening: re.Match[str]) -> None:
        if int(listening[1]) != self.port:
            raise Failed(f"Port {self.port} (the Playground) was taken while it started: start again")


class FunctionHost(Program):
    """The local function host with the app in the folder `app`.

    The app has these `settings` and no others: neither the environment's nor those of a local.settings.json.
    """

    name = "The function host"

    def __init__(
        self,
        logs: Path,
        settings: Mapping[str, str],
        *,
        port: int | None = None,
        app: Path = ROOT,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        unset = {str(field.alias): "" for field in Settings.model_fields.values()}
        super().__init__(
            [sys.executable, "-m", "local.host", "--port", str(self.port), "--stop-with-stdin"],
            logs / "host.log",
            _environ(
                unset
                | {"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
                | dict(settings)
            ),
            app,
            listening="Listening on http",
            health=f"{self.url}/admin/host/status",
        )


def connection_string(ports: tuple[int, int, int] = AZURITE_PORTS, account: str = ACCOUNT) -> str:
    """The connection string of an account of the Azurite on these ports (blob, queue, table)."""
    services = zip(("Blob", "Queue", "Table"), ports, strict=True)
    endpoints = "".join(f"{name}Endpoint=http://127.0.0.1:{port}/{account};" for name, port in services)
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={ACCOUNT_KEY};{endpoints}"


def node(package: str, *options: str) -> list[str]:
    """The command that runs an installed package's program with our preload; raises `Failed` where it is missing."""
    program = shutil.which("node")
    folder = NODE_MODULES / package
    if not program or not folder.is_dir():
        raise Failed(f"{'Node' if not program else package} is not installed: run `python dev.py up` once")
    bins: dict[str, str] = json.loads((folder / "package.json").read_text("utf-8"))["bin"]
    return [program, *options, "--require", str(PRELOAD), str(folder / next(iter(bins.values())))]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while is_taken(port := FREE_PORTS[next(_NEXT) % len(FREE_PORTS)]):
        pass
    return port


def is_taken(port: int) -> bool:
    """Whether a program listens on `port` at 127.0.0.1, or keeps us from doing so."""
    with socket.socket() as probe:
        # Not every system refuses to bind 127.0.0.1 where another program listens on all addresses.
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return True
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def answers(url: str) -> bool:
    """Whether a server answers a GET of `url`, with whatever status below 500."""
    try:
        with _OPENER.open(url, timeout=2):
            return True
    except HTTPError as error:
        return error.code < 500
    except (OSError, HTTPException):
        return False


def _environ(added: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child: ours, without the app's settings, the programs' own and any proxy."""
    known = {str(field.alias).lower() for field in Settings.model_fields.values()}
    ours = (*_APP_SETTINGS, "azurite_", "teamsapptester_", "m365_agents_playground_")
    dropped = known | {"bot_endpoint", "default_channel_id", "auth_tenant_id", "node_options"}
    dropped |= {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    kept = {n: v for n, v in os.environ.items() if n.lower() not in dropped and not n.lower().startswith(ours)}
    return kept | {"NO_PROXY": "127.0.0.1,localhost"} | dict(added)
