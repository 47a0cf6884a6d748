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
from tests.messages.conftest import Clock, ReferenceRecorder, activity_json, make_settings

pytestmark = pytest.mark.usefixtures("without_answers")


@pytest.fixture(autouse=True)
def close_endpoint() -> Iterator[None]:
    yield
    functions._opened = None


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> ReferenceRecorder:
    """The storage of the services that the trigger opens, as on a developer's machine."""
    recorder = ReferenceRecorder()
    configured = make_settings(
        MicrosoftAppId="", MicrosoftAppPassword="", MicrosoftAppTenantId="", AZURE_FUNCTIONS_ENVIRONMENT="Development"
    )
    opened_services = SimpleNamespace(settings=configured, conversations=recorder, http=None, real_time=Clock())

    async def services() -> object:
        return opened_services

    monkeypatch.setattr(functions, "get_services", services)
    return recorder


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


LOOPBACK_URL = "http://127.0.0.1:56150/_connector"


async def test_trigger_passes_the_activity_to_the_endpoint(recorder: ReferenceRecorder) -> None:
    response = await post(activity_json("message", serviceUrl=LOOPBACK_URL))
    assert (response.status_code, response.get_body()) == (200, b"")
    assert recorder.saved


async def test_401_names_the_authentication_scheme(recorder: ReferenceRecorder) -> None:
    response = await post(activity_json("message", serviceUrl=LOOPBACK_URL), host="elsewhere.example")
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert response.mimetype == "application/json"


async def test_503_while_storage_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def services() -> object:
        raise ServiceRequestError("no connection to a secret place")

    monkeypatch.setattr(functions, "get_services", services)
    response = await post(activity_json("message"))
    assert response.status_code == 503
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "secret" not in caplog.text


def test_trigger_accepts_post_without_a_function_key() -> None:
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    app.register_functions(functions.blueprint)
    [function] = app.get_functions()
    trigger = function.get_trigger()
    assert trigger
    described = trigger.get_dict_repr()
    assert (described["route"], described["methods"], described["authLevel"]) == (
        "messages", [func.HttpMethod.POST], func.AuthLevel.ANONYMOUS,
    )  # fmt: skip


def test_header_names_of_a_request_are_in_lower_case() -> None:
    assert is_local_caller(func.HttpRequest("POST", "/", headers={"HOST": "localhost"}, body=b"").headers)
    forwarded = {"Host": "localhost", "X-Forwarded-For": "203.0.113.7"}
    assert not is_local_caller(func.HttpRequest("POST", "/", headers=forwarded, body=b"").headers)


def test_worker_that_only_sends_does_not_import_botbuilder() -> None:
    lazy_modules = ("botbuilder", "messages.endpoint")
    script = f"import sys, messages.functions; print([m for m in {lazy_modules} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
