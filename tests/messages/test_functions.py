from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import azure.functions as func
import orjson
import pytest
from azure.core.exceptions import ServiceRequestError

from messages import functions
from messages.auth.admission import is_local_caller
from tests.messages.conftest import Clock, Memory, activity, settings

pytestmark = pytest.mark.usefixtures("silent")


@pytest.fixture(autouse=True)
def no_services_yet() -> Iterator[None]:
    yield
    functions._opened = None


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """The services of a developer's machine, with a storage in memory."""
    memory = Memory()
    configured = settings(
        MicrosoftAppId="", MicrosoftAppPassword="", MicrosoftAppTenantId="", AZURE_FUNCTIONS_ENVIRONMENT="Development"
    )
    stand = SimpleNamespace(settings=configured, conversations=memory, http=None, real_time=Clock())

    async def services() -> object:
        return stand

    monkeypatch.setattr(functions, "get_services", services)
    return memory


async def post(body: object, host: str = "127.0.0.1:7071") -> func.HttpResponse:
    app = func.FunctionApp()
    app.register_functions(functions.blueprint)
    [function] = app.get_functions()
    assert function.get_function_name() == "messages"
    request = func.HttpRequest(
        "POST", "http://127.0.0.1:7071/api/messages", headers={"Host": host}, body=orjson.dumps(body)
    )
    response = await function.get_user_function()(request)
    assert isinstance(response, func.HttpResponse)
    return response


LOCAL = "http://127.0.0.1:56150/_connector"


async def test_an_activity_goes_through_the_trigger(memory: Memory) -> None:
    response = await post(activity("message", serviceUrl=LOCAL))
    assert (response.status_code, response.get_body()) == (200, b"")
    assert memory.saved


async def test_401_names_the_scheme_that_is_wanted(memory: Memory) -> None:
    response = await post(activity("message", serviceUrl=LOCAL), host="elsewhere.example")
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert response.mimetype == "application/json"


async def test_503_while_storage_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def services() -> object:
        raise ServiceRequestError("no connection to a secret place")

    monkeypatch.setattr(functions, "get_services", services)
    response = await post(activity("message"))
    assert response.status_code == 503
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "secret" not in caplog.text


def test_the_trigger_takes_posts_and_needs_no_key() -> None:
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    app.register_functions(functions.blueprint)
    [function] = app.get_functions()
    trigger = function.get_trigger()
    assert trigger
    described = trigger.get_dict_repr()
    assert (described["route"], described["methods"], described["authLevel"]) == (
        "messages", [func.HttpMethod.POST], func.AuthLevel.ANONYMOUS,
    )  # fmt: skip


def test_a_request_has_its_header_names_in_lower_case() -> None:
    assert is_local_caller(func.HttpRequest("POST", "/", headers={"HOST": "localhost"}, body=b"").headers)
    forwarded = {"Host": "localhost", "X-Forwarded-For": "203.0.113.7"}
    assert not is_local_caller(func.HttpRequest("POST", "/", headers=forwarded, body=b"").headers)


def test_a_worker_that_only_sends_never_imports_botbuilder() -> None:
    late = ("botbuilder", "messages.endpoint")
    script = f"import sys, messages.functions; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
