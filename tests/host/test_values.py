"""Pure functions of the host: durations, backoff, routes and message bodies."""

from __future__ import annotations

from datetime import timedelta

import pytest

from local.host.backoff import backoff_seconds
from local.host.queue_message import decode_body
from local.host.queue_trigger import poison_queue_name
from local.host.routes import compile_route
from local.host.timespan import parse_timespan


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:00:30", 30), ("01:02", 3720), ("1.00:00:00", 86400), ("00:00:00.25", 0.25), ("00:00:00.1234567", 0.123456)],
)
def test_duration_in_dotnet_format_is_parsed(text: str, seconds: float) -> None:
    assert parse_timespan(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "24:00:00", "00:60:00", "00:00:60", "-00:00:01", "PT30S"])
def test_duration_in_another_format_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hh:mm:ss"):
        parse_timespan(text)


def test_backoff_starts_low_doubles_with_jitter_up_to_the_limit() -> None:
    assert backoff_seconds(0, 0.1, 2) == 0.1
    for failures in range(1, 12):
        delays = [backoff_seconds(failures, 0.1, 2) for _ in range(50)]
        step = 0.1 * 2 ** (failures - 1)
        assert min(delays) >= min(2, 0.1 + 0.8 * step)
        assert max(delays) <= min(2, 0.1 + 1.2 * step)
    assert len({backoff_seconds(2, 0.1, 2) for _ in range(50)}) > 10
    assert backoff_seconds(10_000, 0.1, 2) == 2


@pytest.mark.parametrize(
    ("template", "path", "parameters"),
    [
        ("api/items", "/api/items", {}),
        ("api/items", "/API/Items/", {}),
        ("api/items", "/api/items/1", None),
        ("api/items/{id}", "/api/items/a b", {"id": "a b"}),
        ("api/items/{id}", "/api/items", None),
        ("files/{*path}", "/files/a/b.txt", {"path": "a/b.txt"}),
        ("files/{*path}", "/files", {}),
        ("api/{a}/{b}", "/api/x/y", {"a": "x", "b": "y"}),
        ("a.b", "/axb", None),
        ("", "/", {}),
    ],
)  # fmt: skip
def test_route_matches_as_in_aspnet(template: str, path: str, parameters: dict[str, str] | None) -> None:
    assert compile_route(template, ()).match("GET", path) == parameters


def test_route_serves_its_methods_or_any_if_it_names_none() -> None:
    assert compile_route("x", ["GET"]).match("POST", "/x") is None
    assert compile_route("x", []).match("POST", "/x") == {}


def test_more_specific_route_ranks_first() -> None:
    templates = ["a/{*rest}", "a/{x}", "a/b"]
    ranked = sorted(templates, key=lambda template: compile_route(template, ()).rank)
    assert ranked == ["a/b", "a/{x}", "a/{*rest}"]


@pytest.mark.parametrize("template", ["{x:int}", "{x:regex(a)}", "{x=1}", "{x?}", "{x}.json", "{*x}/b", "{x", "a}"])
def test_unsupported_route_parameter_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="is not supported"):
        compile_route(template, ())


@pytest.mark.parametrize(
    ("text", "encoding", "body"),
    [
        ("{}", "none", b"{}"),
        ("e30=", "none", b"e30="),
        ("e30=", "base64", b"{}"),
        ("e3\n0=", "base64", b"{}"),
        ("{}", "base64", None),
        ("é", "base64", None),
        ("e30", "base64", None),
    ],
)
def test_body_is_decoded_only_with_base64_encoding(text: str, encoding: str, body: bytes | None) -> None:
    assert decode_body(text, encoding) == body


@pytest.mark.parametrize(
    ("queue", "poison"),
    [("work", "work-poison"), ("work-poison", None), ("q" * 56, "q" * 56 + "-poison"), ("q" * 57, None)],
)
def test_poison_queue_and_long_name_have_no_poison_queue(queue: str, poison: str | None) -> None:
    assert poison_queue_name(queue) == poison
