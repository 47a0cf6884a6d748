"""Cold start: what `import function_app` takes in a fresh interpreter, beside loading all that the app may load.

What only sends is `function_app` with what its first message loads: a start that left more to that message would look
faster, and be no faster.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.cores import pinned
from benchmarks.report import Options, Report, Run, medians, ratio

ROOT = Path(__file__).resolve().parents[1]
#: Loaded only where they are used: by activities that come in, the first token, keyless storage, a card of one's own.
LAZY = (
    "messages.endpoint",
    "botbuilder.core",
    "botbuilder.schema",
    "jwt",
    "msal",
    "azure.identity.aio",
    "jsonschema",
)
#: The models of the contract that are built when they are first used; what sends reads the first, as stored.
MODELS = ("Notification", "CloudEvent", "CommandEvent", "BareNotification", "BareCommand")
#: Imports of each kind of start. Functions' Python worker loads azure.functions by itself, before it imports the app.
KINDS = {
    "azure.functions": "import azure.functions",
    "function_app": "import function_app",
    "what only sends": "import function_app, msal, shared.contract.models as c; c.Notification.model_rebuild()",
    "everything": f"import function_app, {', '.join(LAZY)}, shared.contract.models as c; "
    + "; ".join(f"c.{name}.model_rebuild()" for name in MODELS),
}
#: How many of the costliest packages are shown.
COSTLIEST = 10
#: Enough for the app to start.
SETTINGS = {"MicrosoftAppId": "app", "MicrosoftAppPassword": "unused", "MicrosoftAppTenantId": "tenant"}
#: Parts of a name by which modules of a namespace package are told apart.
DEEP = {"azure": 3, "botbuilder": 2, "google": 2}

_TIMED = "import json, sys, time; at = time.perf_counter(); {}; print(json.dumps([time.perf_counter() - at, {}]))"
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)$", re.MULTILINE)


async def run(options: Options) -> Report:
    loaded = f"[name for name in {LAZY!r} if name in sys.modules]"
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    too_early: list[str] = []
    _python("-c", KINDS["everything"])  # writes the .pyc files
    for _ in range(options.runs):
        for kind, code in KINDS.items():
            seconds, early = json.loads(_python("-c", _TIMED.format(code, loaded)).stdout)
            runs[kind].append({"seconds": seconds})
            too_early = early if kind == "function_app" else too_early
    timed = ("-X", "importtime", "-c", "import function_app")
    listings = [_by_package(_python(*timed).stderr) for _ in range(options.runs)]
    costs = {name: median(each[name] for each in listings) for name in set().union(*listings)}
    shares = {kind: ratio(made, runs["everything"], "seconds") for kind, made in runs.items()}
    report = Report({"runs": runs, "costs_ms": costs, "loaded_too_early": too_early, "shares_of_everything": shares})
    rows = [[kind, 1000 * medians(made)["seconds"], shares[kind]] for kind, made in runs.items()]
    report.table(("load", "ms, with .pyc files", "share of everything"), rows)
    report.say(f"Everything adds {', '.join(LAZY)}, and the models of the contract.")
    report.say(f"Of those, function_app itself loads: {', '.join(too_early) or 'none'}.")
    report.say(f"The {COSTLIEST} costliest packages by what their own modules take (-X importtime, which slows all):")
    report.table(("package", "ms"), sorted(costs.items(), key=lambda each: -each[1])[:COSTLIEST])
    return report


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **SETTINGS}
    with pinned(measured=True):
        return subprocess.run(  # noqa: S603 (our own interpreter)
            [sys.executable, *arguments], cwd=ROOT, env=environ, check=True, capture_output=True, text=True
        )


def _by_package(listing: str) -> dict[str, float]:
    """Milliseconds by package, of a listing of `-X importtime`."""
    costs: defaultdict[str, float] = defaultdict(float)
    for own, _, module in _LINE.findall(listing):
        parts = module.split(".")
        costs[".".join(parts[: DEEP.get(parts[0], 1)])] += int(own) / 1000
    return costs
