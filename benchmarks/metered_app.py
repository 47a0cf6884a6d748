"""The app of `function_app.py` with meters; the function host imports it instead of the app."""

from __future__ import annotations

import runpy
from pathlib import Path

import azure.functions as func

from benchmarks import host_meters

ROOT = Path(__file__).resolve().parents[1]

app: func.FunctionApp = runpy.run_path(str(ROOT / "function_app.py"))["app"]
app.register_functions(host_meters.blueprint)
