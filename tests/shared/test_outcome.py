"""The outcome of each answer of Teams: the documented ones, and any other."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.states import Reason
from shared.teams.outcome import Outcome, Verdict, classify, error_code, retry_after

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def error_body(code: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": "..."}}).encode()


def sub_code_body(code: str) -> bytes:
    return json.dumps({"errorCode": 209, "message": json.dumps({"subCode": code, "details": ""})}).encode()


@pytest.mark.parametrize(
    ("status", "body", "verdict", "reason"),
    [
        (400, error_body("Bad Argument"), Verdict.FAILED, Reason.BAD_REQUEST),
        (401, error_body("BotNotRegistered"), Verdict.RETRY, Reason.UNAUTHORIZED),
        (401, b"", Verdict.RETRY, Reason.UNAUTHORIZED),
        (403, error_body("BotDisabledByAdmin"), Verdict.SUPPRESSED, Reason.DISABLED_BY_ADMIN),
        (403, error_body("BotNotInConversationRoster"), Verdict.SUPPRESSED, Reason.NOT_INSTALLED),
        (403, error_body("ConversationBlockedByUser"), Verdict.SUPPRESSED, Reason.BLOCKED),
        (403, sub_code_body("MessageWritesBlocked"), Verdict.SUPPRESSED, Reason.BLOCKED),
        (403, sub_code_body("BotNotInConversationRoster"), Verdict.SUPPRESSED, Reason.NOT_INSTALLED),
        (403, error_body("ForbiddenOperationException"), Verdict.SUPPRESSED, Reason.NOT_PERSONAL_SCOPE),
        (403, error_body("NotEnoughPermissions"), Verdict.FAILED, Reason.NOT_PERMITTED),
        (403, error_body("InvalidBotApiHost"), Verdict.FAILED, Reason.WRONG_CLOUD),
        (403, error_body("BadArgument"), Verdict.RETRY, Reason.NOT_PERMITTED),
        (403, error_body("ServiceError"), Verdict.RETRY, Reason.NOT_PERMITTED),
        (403, b"<html>", Verdict.RETRY, Reason.NOT_PERMITTED),
        (403, b"", Verdict.RETRY, Reason.NOT_PERMITTED),
        (404, error_body("ConversationNotFound"), Verdict.FAILED, Reason.CONVERSATION_GONE),
        (408, b"", Verdict.UNKNOWN, Reason.NO_ANSWER),
        (409, b"", Verdict.RETRY, Reason.PRECONDITION),
        (423, b"", Verdict.RETRY, Reason.PRECONDITION),
        (425, b"", Verdict.RETRY, Reason.PRECONDITION),
        (412, error_body("PreconditionFailed"), Verdict.RETRY, Reason.PRECONDITION),
        (413, error_body("MessageSizeTooBig"), Verdict.FAILED, Reason.TOO_BIG),
        (429, error_body("Throttled"), Verdict.RETRY, Reason.THROTTLED),
        (500, error_body("ServiceError"), Verdict.FAILED, Reason.SERVICE_ERROR),
        (501, b"", Verdict.FAILED, Reason.SERVICE_ERROR),
        (502, b"<html>Bad gateway</html>", Verdict.UNKNOWN, Reason.NO_ANSWER),
        (503, b"", Verdict.UNKNOWN, Reason.NO_ANSWER),
        (504, b"", Verdict.UNKNOWN, Reason.NO_ANSWER),
        (418, b"", Verdict.FAILED, Reason.BAD_REQUEST),
        (302, b"", Verdict.FAILED, Reason.BAD_REQUEST),
        (307, b"", Verdict.FAILED, Reason.BAD_REQUEST),
        (599, b"", Verdict.UNKNOWN, Reason.NO_ANSWER),
    ],
)
def test_status_and_code_give_verdict_and_reason(status: int, body: bytes, verdict: Verdict, reason: Reason) -> None:
    outcome = classify(status, {}, body, NOW)
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (201, b'{"id":"1:x"}', Outcome(Verdict.DONE, activity_id="1:x", conversation_id="1:x")),
        (200, b'{"id":"19:c","activityId":"1"}', Outcome(Verdict.DONE, activity_id="1", conversation_id="19:c")),
        (202, b"", Outcome(Verdict.DONE)),
        (200, b"not json", Outcome(Verdict.DONE)),
        (200, b'{"id":5}', Outcome(Verdict.DONE)),
    ],
)
def test_success_has_the_ids_in_the_answer(status: int, body: bytes, expected: Outcome) -> None:
    assert classify(status, {}, body, NOW) == expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("20", 20),
        (" 3 ", 3),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 1),
        ("0", 1),
        ("2.128", 2.128),
        ("86400", 900),
        ("9" * 400, 900),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 900),
        ("Mon, 01 Jan 0001 00:00:00 -2359", 1),
        ("Fri, 32 Dec 2026 25:61:61 GMT", None),
        ("soon", None),
        ("-1", None),
        ("1e9999", None),
        (None, None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@given(st.integers(100, 599), st.binary() | st.text().map(str.encode), st.none() | st.text())
def test_any_answer_has_a_verdict(status: int, body: bytes, header: str | None) -> None:
    outcome = classify(status, {"Retry-After": header} if header is not None else {}, body, NOW)
    assert (outcome.verdict is Verdict.DONE) == (200 <= status < 300)
    assert (outcome.reason is None) == (outcome.verdict is Verdict.DONE)
    assert outcome.retry_after is None or 1 <= outcome.retry_after <= 900
    assert outcome.may_have_arrived == (status == 500)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.sampled_from(["error", "code", "message", "subCode", "errorCode"]), x)))  # noqa: E501  # fmt: skip
def test_any_error_body_yields_a_code_or_none(value: object) -> None:
    assert isinstance(error_code(json.dumps(value).encode()), str)
