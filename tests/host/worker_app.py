"""An app whose functions record what they receive: for the local host and for Microsoft's library worker."""

import threading
from typing import Any, cast

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
#: What each invocation received, as plain values.
received: list[dict[str, Any]] = []


def _record(context: func.Context, **values: Any) -> None:
    is_main_thread = threading.current_thread() is threading.main_thread()
    received.append(values | {"function": context.function_name, "is_main_thread": is_main_thread})


def _record_request(req: func.HttpRequest, context: func.Context) -> None:
    _record(
        context,
        method=req.method,
        url=req.url,
        headers=dict(req.headers),
        params=dict(req.params),
        route_params=dict(req.route_params),
        body=req.get_body(),
    )


def _record_message(msg: func.QueueMessage, context: func.Context) -> None:
    _record(
        context,
        id=msg.id,
        body=msg.get_body(),
        dequeue_count=msg.dequeue_count,
        insertion_time=msg.insertion_time,
        expiration_time=msg.expiration_time,
        pop_receipt=msg.pop_receipt,
    )


@app.route(route="items/{id}/{*rest}", trigger_arg_name="value")
async def request(value: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    _record_request(value, context)
    headers = {"X-Out": "1", "Location": "/elsewhere"}
    return func.HttpResponse(value.get_body()[::-1], status_code=201, headers=headers, mimetype="application/x-test")


@app.route(route="text", trigger_arg_name="value")
def text(value: func.HttpRequest, context: func.Context) -> str:
    _record_request(value, context)
    return "Grüße"


@app.route(route="nothing", trigger_arg_name="value")
async def nothing(value: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    _record_request(value, context)
    return cast("func.HttpResponse", None)


@app.route(route="number", trigger_arg_name="value")
async def number(value: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    _record_request(value, context)
    return cast("func.HttpResponse", 5)


@app.route(route="failing", trigger_arg_name="value")
async def failing(value: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    _record_request(value, context)
    raise ValueError("intended failure")


@app.route(route="failing-thread", trigger_arg_name="value")
def failing_thread(value: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    _record_request(value, context)
    raise ValueError("intended failure")


@app.queue_trigger(arg_name="value", queue_name="work", connection="AzureWebJobsStorage")
async def text_message(value: func.QueueMessage, context: func.Context) -> None:
    _record_message(value, context)


@app.queue_trigger(
    arg_name="value", queue_name="binary", connection="AzureWebJobsStorage", data_type=func.DataType.BINARY
)
def binary_message(value: func.QueueMessage, context: func.Context) -> None:
    _record_message(value, context)


@app.queue_trigger(arg_name="value", queue_name="failing", connection="AzureWebJobsStorage")
async def failing_message(value: func.QueueMessage, context: func.Context) -> None:
    _record_message(value, context)
    raise ValueError("intended failure")


@app.queue_trigger(arg_name="value", queue_name="returning", connection="AzureWebJobsStorage")
async def returning_message(value: func.QueueMessage, context: func.Context) -> str:
    _record_message(value, context)
    return "no binding takes it"


@app.timer_trigger(arg_name="value", schedule="0 0 0 1 1 *")
async def timer(value: func.TimerRequest, context: func.Context) -> None:
    request: Any = value  # its abstract class lacks some attributes
    _record(context, past_due=request.past_due, schedule_status=request.schedule_status, schedule=request.schedule)
