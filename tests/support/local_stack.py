"""`dev.py up` as a process of its own, on free ports."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from local.processes import ROOT, free_port, is_taken


@dataclass
class LocalStack:
    """`python -m local.up` with its data and logs in `folder`."""

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

    def is_stopped(self) -> bool:
        """Return whether none of its programs listens."""
        return not any(map(is_taken, self.ports))


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """Return the output until the stack is ready; kill the process after 60 s."""
    assert process.stdout
    timer = threading.Timer(60, process.kill)
    timer.start()
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("Ctrl-C"):
            break
    timer.cancel()
    return output
