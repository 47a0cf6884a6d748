"""Cold start: the time of `import function_app` in a new interpreter, compared with loading all that the app can load.

"What only sends" is `function_app` with the modules that its first message loads. Without it, a start that leaves more
work to the first message would look faster than it is.
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

from benchmarks.cores import pin_processes
from benchmarks.report import Options, Report, Run, median_ratio, medians

ROOT = Path(__file__).resolve().parents[1]
#: Loaded only when needed: by incoming activities, the first token, keyless storage, or a custom card.
LAZY_MODULES = (
    "messages.endpoint",
    "botbuilder.core",
    "botbuilder.schema",
    "jwt",
    "msal",
    "azure.identity.aio",
    "jsonschema",
)
#: Contract models that are built on first use; sending needs only the first one, to read stored notifications.
LAZY_MODELS = ("Notification", "CloudEvent", "CommandEvent", "BareNotification", "BareCommand")
#: Prevents the import of a grammar that a tool for development brings along, and that `jsonschema` then loads.
_NO_GRAMMAR = "import sys; sys.modules['rfc3987_syntax'] = None; "
#: The code of each kind of start. The Python worker of Functions loads azure.functions before it imports the app.
STARTS = {
    "azure.functions": "import azure.functions",
    "function_app": "import function_app",
    "what only sends": "import function_app, msal, shared.contract.models as c; c.Notification.model_rebuild()",
    "everything": f"{_NO_GRAMMAR}import function_app, {', '.join(LAZY_MODULES)}, shared.contract.models as c; "
    + "; ".join(f"c.{name}.model_rebuild()" for name in LAZY_MODELS),
}
LISTED_PACKAGES = 10
#: The settings that the app needs to start.
SETTINGS = {"MicrosoftAppId": "app", "MicrosoftAppPassword": "unused", "MicrosoftAppTenantId": "tenant"}
#: The number of name parts that identify a package within a namespace package.
NAMESPACE_DEPTHS = {"azure": 3, "botbuilder": 2, "google": 2}

_TIMED = "import json, sys, time; at = time.perf_counter(); {}; print(json.dumps([time.perf_counter() - at, {}]))"
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)$", re.MULTILINE)


async def run(options: Options) -> Report:
    loaded = f"[name for name in {LAZY_MODULES!r} if name in sys.modules]"
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    too_early: list[str] = []
    _run_python("-c", STARTS["everything"])  # writes the .pyc files
    for _ in range(options.runs):
        for start, code in STARTS.items():
            seconds, lazy = json.loads(_run_python("-c", _TIMED.format(code, loaded)).stdout)
            runs[start].append({"seconds": seconds})
            too_early = lazy if start == "function_app" else too_early
    command = ("-X", "importtime", "-c", "import function_app")
    listings = [_sum_by_package(_run_python(*command).stderr) for _ in range(options.runs)]
    costs = {name: median(listing[name] for listing in listings) for name in set().union(*listings)}
    shares = {start: median_ratio(start_runs, runs["everything"], "seconds") for start, start_runs in runs.items()}
    report = Report({"runs": runs, "costs_ms": costs, "loaded_too_early": too_early, "shares_of_everything": shares})
    rows = [[start, 1000 * medians(start_runs)["seconds"], shares[start]] for start, start_runs in runs.items()]
    report.add_table(("start", "ms, with .pyc files", "share of everything"), rows)
    report.add_line(f"Everything adds {', '.join(LAZY_MODULES)}, and the models of the contract.")
    report.add_line(f"Of those modules, function_app itself loads: {', '.join(too_early) or 'none'}.")
    report.add_line(f"The {LISTED_PACKAGES} most expensive packages by their own modules, slowed by -X importtime:")
    report.add_table(("package", "ms"), sorted(costs.items(), key=lambda item: -item[1])[:LISTED_PACKAGES])
    return report


def _run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **SETTINGS}
    with pin_processes(measured=True):
        return subprocess.run(  # noqa: S603 (our own interpreter)
            [sys.executable, *arguments], cwd=ROOT, env=environ, check=True, capture_output=True, text=True
        )


def _sum_by_package(listing: str) -> dict[str, float]:
    """Return the milliseconds of each package in a listing of `-X importtime`."""
    costs: defaultdict[str, float] = defaultdict(float)
    for own, _, module in _LINE.findall(listing):
        parts = module.split(".")
        costs[".".join(parts[: NAMESPACE_DEPTHS.get(parts[0], 1)])] += int(own) / 1000
    return costs
