"""The programs of the local stack as child processes: Azurite, the Playground and the function host.

Each listens on 127.0.0.1, writes to a log file, and stops when its standard input closes, which works on every
operating system, and also when the parent is killed.

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

#: The time limit for a program to become healthy.
START_SECONDS = 60.0
#: The time limit for a program to stop, before it is killed. The host waits 30 s for running functions.
STOP_SECONDS = 35.0
#: How often a starting program is checked.
CHECK_SECONDS = 0.03
#: The range of free ports: below the ports that operating systems use for outgoing connections.
FREE_PORTS = range(20_000, 32_000)
#: The next port to try. Each process starts elsewhere, so that two processes seldom choose the same port.
_port_numbers = count(os.getpid() * 1009)

ROOT = Path(__file__).resolve().parents[1]
NODE_MODULES = ROOT / ".local" / "node" / "node_modules"
PRELOAD = ROOT / "local" / "node" / "preload.cjs"
PLAYGROUND_CONFIG = ROOT / "local" / "playground.json"

AZURITE_PORTS = (10000, 10001, 10002)
HOST_PORT = 7071
PLAYGROUND_PORT = 56150

#: How long Azurite keeps an idle connection. Its default is 5 s, but clients reuse a connection for 15 s, and may write
#: to a closed one.
KEEP_ALIVE_SECONDS = 120

#: The default account of Azurite, and its key from its documentation.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_OPENER = build_opener(ProxyHandler({}))
#: Prefixes of app settings that are not fields of `Settings`, such as `AzureWebJobsStorage__...`.
_APP_SETTING_PREFIXES = ("azurewebjobs", "herald_", "website_", "functions_", "azure_functions_")


class ProgramError(Exception):
    """A program did not start, or has ended; the message is one line."""


class Program:
    """A child process; the constructor starts it, the context manager waits until it is healthy, and stops it."""

    #: The name in messages.
    name: str

    def __init__(
        self, command: Sequence[str | Path], log: Path, env: Mapping[str, str], cwd: Path, listening: str, health: str
    ) -> None:
        """Start `command`; it is healthy once its log matches `listening` and the URL `health` responds to a GET."""
        self.log = log
        self._listening = re.compile(listening)
        self._health = health
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        # A separate process group: on Ctrl-C, the parent stops the programs in the right order.
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
        """Return the output so far."""
        return self.log.read_text("utf-8", "replace")

    def summarize_output(self) -> str:
        """Return the end of the output as one line, and the path of the log."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return f"{' | '.join(lines[-3:])[-600:] or 'no output'} (full output: {self.log})"

    def check(self) -> None:
        """Raise `ProgramError` if the program has ended."""
        if (code := self.process.poll()) is not None:
            raise ProgramError(f"{self.name} has ended with exit code {code}: {self.summarize_output()}")

    def wait_until_healthy(self, seconds: float = START_SECONDS) -> None:
        """Wait until the program is healthy; raises `ProgramError` if it ends or is not healthy within `seconds`."""
        deadline = time.monotonic() + seconds
        while not self._is_healthy():
            self.check()
            if time.monotonic() > deadline:
                raise ProgramError(f"{self.name} is not healthy after {seconds:.0f} s: {self.summarize_output()}")
            time.sleep(CHECK_SECONDS)

    def _is_healthy(self) -> bool:
        # The log first, because another program could respond on the port.
        if not (found := self._listening.search(self.output())):
            return False
        self._check_listening(found)
        return is_responding(self._health)

    def _check_listening(self, listening: re.Match[str]) -> None:
        """Check the log line with the port; raises `ProgramError`."""

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Stop the program and wait; kill it after `grace` seconds."""
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
        """Kill the program (SIGKILL), and wait for its end."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


class Azurite(Program):
    """The storage emulator; in memory, or with the folder `data`.

    `accounts` are names of separate accounts, instead of the default one; `ports` are those of blob, queue and table.
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
        command = _node_command("azurite")
        for service, port in zip(("blob", "queue", "table"), self.ports, strict=True):
            command += [f"--{service}Port", str(port), f"--{service}KeepAliveTimeout", str(KEEP_ALIVE_SECONDS)]
        # A client that is newer than the emulator, such as that of an upstream system, may use a newer API version.
        command += ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        if data:
            data.mkdir(parents=True, exist_ok=True)
        super().__init__(
            [*command, *(["--location", str(data)] if data else ["--inMemoryPersistence"])],
            logs / "azurite.log",
            _environ({"AZURITE_ACCOUNTS": ";".join(f"{account}:{ACCOUNT_KEY}" for account in accounts)}),
            ROOT,
            listening="Azurite Table service is successfully listening",  # the last service to start
            health=f"http://127.0.0.1:{self.ports[1]}/{accounts[0]}?comp=list",
        )

    def connection_string(self, account: str = ACCOUNT) -> str:
        """Return the connection string of an account, for `AzureWebJobsStorage` or any storage client."""
        return connection_string(self.ports, account)


class Playground(Program):
    """Microsoft 365 Agents Playground: a chat like that of Teams, and its Bot Connector, without tokens.

    `config` has its people and chats; `endpoint` is the messaging endpoint of the app.
    """

    name = "The Playground"

    def __init__(self, logs: Path, endpoint: str, *, port: int | None = None, config: Path = PLAYGROUND_CONFIG) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._own_log = logs / "playground.log"
        self._own_log.unlink(missing_ok=True)  # the log of an earlier run must not be read as its output
        # A client that disconnects causes an unhandled rejection, which would end the Playground.
        command = _node_command("@microsoft/m365agentsplayground", "--unhandled-rejections=warn")
        command += ["-e", endpoint, "-c", "msteams", "-p", str(self.port), "--su", f"{self.url}/_connector", "--dt"]
        env = {
            "TEAMSAPPTESTER_BROWSER": "none",
            "M365_AGENTS_PLAYGROUND_CONFIG_PATH": str(config),
            "M365_AGENTS_PLAYGROUND_LOGFILE": str(self._own_log),
            "APPLICATION_INSIGHTS_NO_STATSBEAT": "1",  # --dt does not disable it
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
        # The Playground writes to its own log, which it deletes at the start, and hardly anything to its output.
        own = self._own_log.read_text("utf-8", "replace") if self._own_log.exists() else ""
        return own + super().output()

    def _check_listening(self, listening: re.Match[str]) -> None:
        if int(listening[1]) != self.port:
            raise ProgramError(f"Port {self.port} (the Playground) was taken while it started: start again")


class FunctionHost(Program):
    """The local function host with the app in the folder `app`.

    The app has only these `settings`, not those of the environment or of local.settings.json. It can import from its
    folder and from `packages`; by default these are the repository and all installed packages.
    """

    name = "The function host"

    def __init__(
        self,
        logs: Path,
        settings: Mapping[str, str],
        *,
        port: int | None = None,
        app: Path = ROOT,
        packages: Path | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        python = [sys.executable, *(["-S"] if packages else [])]  # -S: without the installed packages
        unset = {str(field.alias): "" for field in Settings.model_fields.values()}
        super().__init__(
            [*python, "-m", "local.host", "--port", str(self.port), "--stop-with-stdin"],
            logs / "host.log",
            _environ(
                unset
                | {"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "PYTHONUNBUFFERED": "1"}
                | {"PYTHONPATH": str(packages or ROOT)}
                | dict(settings)
            ),
            app,
            listening="Listening on http",
            health=f"{self.url}/admin/host/status",
        )


def connection_string(ports: tuple[int, int, int] = AZURITE_PORTS, account: str = ACCOUNT) -> str:
    """Return the connection string of an account of Azurite on these ports (blob, queue, table)."""
    services = zip(("Blob", "Queue", "Table"), ports, strict=True)
    endpoints = "".join(f"{name}Endpoint=http://127.0.0.1:{port}/{account};" for name, port in services)
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={ACCOUNT_KEY};{endpoints}"


def _node_command(package: str, *options: str) -> list[str]:
    """Return the command of an installed package, with preload.cjs; raises `ProgramError` if it is not installed."""
    program = shutil.which("node")
    folder = NODE_MODULES / package
    if not program or not folder.is_dir():
        raise ProgramError(f"{'Node' if not program else package} is not installed: run `python dev.py up` once")
    bins: dict[str, str] = json.loads((folder / "package.json").read_text("utf-8"))["bin"]
    return [program, *options, "--require", str(PRELOAD), str(folder / next(iter(bins.values())))]


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    while is_taken(port := FREE_PORTS[next(_port_numbers) % len(FREE_PORTS)]):
        pass
    return port


def is_taken(port: int) -> bool:
    """Return whether `port` of 127.0.0.1 cannot be used to listen."""
    with socket.socket() as probe:
        # Some systems allow to bind 127.0.0.1 while another program listens on all addresses.
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


def is_responding(url: str) -> bool:
    """Return whether a server responds to a GET of `url` with a status below 500."""
    try:
        with _OPENER.open(url, timeout=2):
            return True
    except HTTPError as error:
        return error.code < 500
    except (OSError, HTTPException):
        return False


def _environ(added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child: without app settings, settings of the programs, and proxies."""
    dropped = {str(field.alias).lower() for field in Settings.model_fields.values()}
    prefixes = (*_APP_SETTING_PREFIXES, "azurite_", "teamsapptester_", "m365_agents_playground_")
    dropped |= {"bot_endpoint", "default_channel_id", "auth_tenant_id", "node_options"}
    dropped |= {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    inherited = {n: v for n, v in os.environ.items() if n.lower() not in dropped and not n.lower().startswith(prefixes)}
    return inherited | {"NO_PROXY": "127.0.0.1,localhost"} | dict(added)
