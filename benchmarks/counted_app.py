"""The app of `function_app.py` with meters. The function host imports it in the app's place."""

from __future__ import annotations

import runpy
from pathlib import Path

import azure.functions as func

from benchmarks import metered

ROOT = Path(__file__).resolve().parents[1]

app: func.FunctionApp = runpy.run_path(str(ROOT / "function_app.py"))["app"]
app.register_functions(metered.blueprint)
