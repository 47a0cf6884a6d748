"""What the start of the app leaves for later is not loaded by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.cold import LAZY_MODELS, LAZY_MODULES, ROOT, SETTINGS


def after_start(expression: str) -> Any:
    """The value of `expression` in a process that has imported the app."""
    script = f"import function_app, json, sys, shared.contract.models as contract; print(json.dumps({expression}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **SETTINGS},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_start_loads_no_package_that_only_some_messages_need() -> None:
    assert after_start(f"[name for name in {LAZY_MODULES!r} if name in sys.modules]") == []


def test_start_builds_no_model_of_the_contract() -> None:
    built = f"[name for name in {LAZY_MODELS!r} if getattr(contract, name).__pydantic_complete__]"
    assert after_start(built) == []
