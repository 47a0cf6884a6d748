"""`function_app.py` as Azure loads it (docs/odd-inputs.md, The platform)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from local.processes import ROOT, connection_string
from shared.storage.clients import open_storage
from tests.shared.test_settings import BOT

LIST_FUNCTIONS = """
import asyncio, logging
import azure.functions as func
logging.basicConfig(level=logging.INFO)
import function_app
functions = {each.get_function_name(): each.get_user_function() for each in function_app.app.get_functions()}
print(len(functions), "messages" in functions)
if len(functions) == 1:
    request = func.HttpRequest(method="POST", url="/api/messages", body=b"{}")
    answer = asyncio.run(functions["messages"](request))
    print(answer.status_code, answer.get_body().decode())
print(logging.getLogger("azure.core.pipeline.policies.http_logging_policy").getEffectiveLevel())
"""


def load_app(**settings: str) -> tuple[list[str], str]:
    """Load the app in a process with these settings; return the lines of its output, and its log."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HERALD_", "AZURE_", "Micro"))}
    done = subprocess.run(
        [sys.executable, "-c", LIST_FUNCTIONS],
        cwd=ROOT,
        env=environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines(), done.stderr


def test_app_with_a_missing_setting_has_only_an_http_function_that_says_so() -> None:
    [count, answer, level], errors = load_app()
    assert (count, level) == ("1 True", "30")
    assert answer.startswith("503 ")
    assert "MicrosoftAppId" in answer
    assert "Nothing is sent or received until a setting is corrected: MicrosoftAppId" in errors


def test_app_with_its_settings_has_all_functions() -> None:
    [count, _], errors = load_app(**BOT)
    assert int(count.split()[0]) > 10
    assert "until a setting is corrected" not in errors


def test_app_on_a_developers_machine_does_not_start_with_a_wrong_setting() -> None:
    output, errors = load_app(AZURE_FUNCTIONS_ENVIRONMENT="Development", HERALD_TENANT_RATE="fast")
    assert output == []
    assert "HERALD_TENANT_RATE" in errors.splitlines()[-1]


async def test_identity_settings_count_beside_a_connection_string(caplog: pytest.LogCaptureFixture) -> None:
    environ = {
        "AzureWebJobsStorage": connection_string(),
        "AzureWebJobsStorage__queueServiceUri": "https://herald.queue.core.windows.net",
        "AzureWebJobsStorage__tableServiceUri": "https://herald.table.core.windows.net",
        "AzureWebJobsStorage__clientId": "0d6a1c9e-7a52-4b1f-9a35-2f6f3d1b8c44",
        "AzureWebJobsStorage__credential": "managedidentity",
    }
    queues, tables = open_storage(environ)
    async with queues, tables:
        assert queues.url.startswith("https://herald.queue.core.windows.net")
        assert tables.url.startswith("https://herald.table.core.windows.net")
    [warning] = [record.getMessage() for record in caplog.records]
    assert "AzureWebJobsStorage is ignored" in warning
    assert "AzureWebJobsStorage__queueServiceUri" in warning
