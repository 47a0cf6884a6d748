"""Errors at the start of the host, in the process of the test: each is one line, and an exit code."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from local.host import __main__ as program

RunProgram = Callable[..., int]

QUEUE_APP = """
import azure.functions as func

app = func.FunctionApp()

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="")
async def work(msg: func.QueueMessage) -> None: ...
"""


@pytest.fixture
def run_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunProgram]:
    """Run `python -m local.host` with the source text of an app and with arguments, and return its exit code."""

    def exit_process(code: int) -> NoReturn:
        raise SystemExit(code)

    def run(app: str, *arguments: str) -> int:
        (tmp_path / "function_app.py").write_text(app)
        monkeypatch.setattr(sys, "argv", ["local.host", "--port", "0", *arguments])
        with pytest.raises(SystemExit) as ended:
            program.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "_exit", exit_process)
    monkeypatch.setattr(os, "environ", {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(logging.Formatter, "converter", time.localtime)  # `main` changes it
    monkeypatch.setattr(logging.getLogger("azure"), "setLevel", lambda _: None)
    monkeypatch.delitem(sys.modules, "function_app", raising=False)
    yield run
    sys.modules.pop("function_app", None)


@pytest.mark.parametrize(
    ("app", "line"),
    [
        (
            "from shared.states import SettingsError\nraise SettingsError('A is missing: set it')",
            "A is missing: set it",
        ),
        ("import nowhere", "function_app.py cannot be imported: ModuleNotFoundError: No module named 'nowhere' .*"),
        ("def f(:", "function_app.py cannot be imported: SyntaxError: .*"),
        ("", "function_app.py must define exactly one FunctionApp, but defines 0"),
        (QUEUE_APP, "function work: %QUEUE% is not set: .*"),
    ],
)
def test_app_that_cannot_start_is_one_line_and_exit_1(
    run_program: RunProgram, capsys: pytest.CaptureFixture[str], app: str, line: str
) -> None:
    assert run_program(app) == 1
    output, errors = capsys.readouterr()
    assert re.fullmatch(f"{line}\n", errors), errors
    assert "Listening" not in output


def test_invalid_port_is_refused(run_program: RunProgram, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(QUEUE_APP, "--port", "65536") == 2
    assert "--port must be from 0 to 65535" in capsys.readouterr().err


def test_verbose_shows_the_traceback_of_a_failed_import(
    run_program: RunProgram, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program("import nowhere", "--verbose") == 1
    assert "Traceback" in capsys.readouterr().err


def test_require_keys_needs_a_key(run_program: RunProgram, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(QUEUE_APP, "--require-keys") == 1
    assert re.fullmatch(r"HERALD_LOCAL_KEY is not set: .*\n", capsys.readouterr().err)
