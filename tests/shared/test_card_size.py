"""An activity fits what Teams takes: its text is shortened well, or it is refused before it is sent."""

from __future__ import annotations

import base64
import json
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.cards import notification, size
from shared.cards.size import NOTE, TooLarge, fit, shortened, utf16_bytes, within
from shared.contract.models import Actor, Content, Fact

LIMIT = 80 * 1024
PIECES = ["word ", "[a link](https://example.com/a)", "e\u0301", "👩‍👩‍👧", "👍🏽", "🇩🇪", '"', "\n", "\x00", "漢"]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=300) | st.lists(st.sampled_from(PIECES)).map("".join)
CONTENTS = st.builds(
    Content,
    title=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    text=TEXTS,
    facts=st.lists(st.builds(Fact, title=st.just("Branch"), value=st.text(max_size=20)), max_size=3),
    actor=st.none() | st.builds(Actor, name=st.just("nightly schedule")),
)


def draw(content: Content) -> bytes:
    return orjson.dumps({"type": "message", "summary": content.title, "attachments": [notification.draw(content)]})


def drawn_text(activity: bytes) -> str:
    body: list[dict[str, Any]] = orjson.loads(activity)["attachments"][0]["body"]
    return str(body[1]["text"])


@given(st.text(st.characters(codec="utf-8")))
def test_the_size_is_that_of_utf_16(text: str) -> None:
    assert utf16_bytes(text.encode()) == len(text.encode("utf-16-le"))


def test_an_image_in_base64_is_not_counted() -> None:
    def card(url: str) -> bytes:
        return orjson.dumps({"body": [{"type": "Image", "url": url}, {"type": "TextBlock", "text": "A picture"}]})

    picture = base64.b64encode(bytes(range(256)) * 100).decode()
    assert utf16_bytes(card(f"data:image/svg+xml;base64,{picture}")) == utf16_bytes(card(""))


def test_base64_in_a_text_is_counted() -> None:
    text = "data:image/png;base64," + "A" * 1000
    for value in (text, f'"url":"{text}"'):
        activity = orjson.dumps({"type": "TextBlock", "text": value})
        assert utf16_bytes(activity) == 2 * len(activity)


@given(CONTENTS)
def test_what_fits_is_not_changed(content: Content) -> None:
    assert fit(content, LIMIT, draw) == draw(content)


@given(CONTENTS, st.integers(300, 3000))
def test_an_activity_is_fitted_or_refused(content: Content, limit: int) -> None:
    least = utf16_bytes(draw(content.model_copy(update={"text": NOTE})))
    if min(least, utf16_bytes(draw(content))) <= limit:
        assert utf16_bytes(fit(content, limit, draw)) <= limit
    else:
        with pytest.raises(TooLarge) as refused:
            fit(content, limit, draw)
        assert (refused.value.size, refused.value.limit) == (least, limit)


@given(CONTENTS, st.integers(600, 3000))
def test_a_fitted_activity_fits_without_a_further_change(content: Content, limit: int) -> None:
    try:
        once = fit(content, limit, draw)
    except TooLarge:
        return
    again = content.model_copy(update={"text": drawn_text(once)}) if content.text else content
    assert fit(again, limit, draw) == once


@given(TEXTS, st.integers(0, 1000))
@example("👩‍👩‍👧" * 20, 52)
@example("🇩🇪🇫🇷 🇮🇹", 22)
@example("e\u0301" * 20, 31)
@example("see [the log](https://example.com/log) for more", 60)
def test_a_text_is_cut_only_where_a_character_and_a_link_end(text: str, budget: int) -> None:
    kept = shortened(text, budget)
    assert text.startswith(kept)
    assert len(json.dumps(kept, ensure_ascii=False).encode("utf-16-le")) - 4 <= budget
    cut = text[len(kept) :]
    if kept and cut:
        assert unicodedata.category(cut[0])[0] != "M"
        assert "\u200d" not in (kept[-1], cut[0])
        assert cut[0] not in "🏻🏼🏽🏾🏿"
        assert not (kept.endswith("🇩") and cut.startswith("🇪"))
        assert kept.count("[a link](") == kept.count("[a link](https://example.com/a)")


def test_a_text_that_takes_the_budget_is_kept() -> None:
    assert shortened("four", 8) == "four"
    assert shortened("four", 7) == "fou"
    assert shortened("", 0) == ""


@pytest.mark.parametrize(
    ("text", "budget", "kept"),
    [
        ("one two three", 2 * 10, "one two"),
        ("one two three", 2 * 7, "one two"),
        ("one  two", 2 * 5, "one"),
        ("Line\nNext line", 2 * 8, "Line"),
        ("漢字漢字漢字", 2 * 3, "漢字漢"),
        ("a [the log](https://example.com/) b", 2 * 20, "a"),
        ("a [the log](https://example.com/) b", 2 * 34, "a [the log](https://example.com/)"),
        ("[not a link] and more", 2 * 14, "[not a link]"),
        ("👍🏽👍🏽", 2 * 6, "👍🏽"),
        ("👍🏽👍🏽", 2 * 7, "👍🏽"),
        ("a👩‍👩‍👧", 2 * 4, "a"),
        ("a🇩🇪", 2 * 3, "a"),
        ('"quoted" text', 2 * 12, '"quoted"'),
    ],
)
def test_a_text_ends_with_a_word(text: str, budget: int, kept: str) -> None:
    assert shortened(text, budget) == kept


def test_a_word_longer_than_the_window_is_cut() -> None:
    assert shortened("a " + "b" * 1000, 2 * 600) == "a " + "b" * 598


def test_a_shortened_text_says_so_and_uses_the_room() -> None:
    content = Content(title="Log", text="All of it. " * 20_000, facts=[Fact(title="Branch", value="main")])
    activity = fit(content, LIMIT, draw)
    text = drawn_text(activity)
    assert text.removesuffix(NOTE).endswith((" it.", " of", " All"))
    assert text.endswith(NOTE)
    assert LIMIT - 100 < utf16_bytes(activity) <= LIMIT


def test_shortening_draws_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Content] = []

    def counted(content: Content) -> bytes:
        drawn.append(content)
        return draw(content)

    measured: list[bytes] = []

    def measure(activity: bytes) -> int:
        measured.append(activity)
        return utf16_bytes(activity)

    monkeypatch.setattr(size, "utf16_bytes", measure)
    fit(Content(title="Log", text="ä" * 500_000), LIMIT, counted)
    assert len(drawn) == 3
    assert len(measured) < 30


def test_what_is_too_large_without_its_text_is_refused() -> None:
    facts = [Fact(title="Log", value="x" * 1000)] * 50
    with pytest.raises(TooLarge) as refused:
        fit(Content(title="Log", text="short", facts=facts), LIMIT, draw)
    assert refused.value.size > LIMIT == refused.value.limit
    assert "xxx" not in str(refused.value)


def test_an_activity_at_the_limit_is_within_it_and_one_above_is_not() -> None:
    activity = b'{"type":"message"}'
    assert within(activity, 36) is activity
    with pytest.raises(TooLarge):
        within(activity, 35)


@pytest.mark.parametrize("text", ["[" * 60_000, "](" * 30_000, "\u0301" * 60_000, "🇩🇪" * 30_000, " " * 60_000])
def test_no_text_takes_long_to_shorten(text: str) -> None:
    assert len(shortened(text, 2 * 50_000)) <= 50_000
