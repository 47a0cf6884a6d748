"""The size limit of an activity: a long text is shortened at a good place, or the activity is refused."""

from __future__ import annotations

import base64
import json
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.cards import size
from shared.cards.notification import draw_notification_card
from shared.cards.size import SHORTENED_NOTE, TooLarge, count_utf16_bytes, fit_activity, require_size, shorten_text
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


def render(content: Content) -> bytes:
    return orjson.dumps({"type": "message", "summary": content.title, "attachments": [draw_notification_card(content)]})


def rendered_text(activity: bytes) -> str:
    body: list[dict[str, Any]] = orjson.loads(activity)["attachments"][0]["body"]
    return str(body[1]["text"])


@given(st.text(st.characters(codec="utf-8")))
def test_size_is_counted_in_utf_16(text: str) -> None:
    assert count_utf16_bytes(text.encode()) == len(text.encode("utf-16-le"))


def test_base64_image_is_not_counted() -> None:
    def card(url: str) -> bytes:
        return orjson.dumps({"body": [{"type": "Image", "url": url}, {"type": "TextBlock", "text": "A picture"}]})

    picture = base64.b64encode(bytes(range(256)) * 100).decode()
    assert count_utf16_bytes(card(f"data:image/svg+xml;base64,{picture}")) == count_utf16_bytes(card(""))


def test_base64_in_text_is_counted() -> None:
    text = "data:image/png;base64," + "A" * 1000
    for value in (text, f'"url":"{text}"'):
        activity = orjson.dumps({"type": "TextBlock", "text": value})
        assert count_utf16_bytes(activity) == 2 * len(activity)


@given(CONTENTS)
def test_activity_within_the_limit_is_unchanged(content: Content) -> None:
    assert fit_activity(content, LIMIT, render) == render(content)


@given(CONTENTS, st.integers(300, 3000))
def test_activity_is_fitted_or_refused(content: Content, limit: int) -> None:
    least = count_utf16_bytes(render(content.model_copy(update={"text": SHORTENED_NOTE})))
    if min(least, count_utf16_bytes(render(content))) <= limit:
        assert count_utf16_bytes(fit_activity(content, limit, render)) <= limit
    else:
        with pytest.raises(TooLarge) as refused:
            fit_activity(content, limit, render)
        assert (refused.value.size, refused.value.limit) == (least, limit)


@given(CONTENTS, st.integers(600, 3000))
def test_fitted_activity_is_not_shortened_again(content: Content, limit: int) -> None:
    try:
        once = fit_activity(content, limit, render)
    except TooLarge:
        return
    again = content.model_copy(update={"text": rendered_text(once)}) if content.text else content
    assert fit_activity(again, limit, render) == once


@given(TEXTS, st.integers(0, 1000))
@example("👩‍👩‍👧" * 20, 52)
@example("🇩🇪🇫🇷 🇮🇹", 22)
@example("e\u0301" * 20, 31)
@example("see [the log](https://example.com/log) for more", 60)
def test_text_is_never_cut_inside_a_character_or_a_link(text: str, budget: int) -> None:
    kept = shorten_text(text, budget)
    assert text.startswith(kept)
    assert len(json.dumps(kept, ensure_ascii=False).encode("utf-16-le")) - 4 <= budget
    cut = text[len(kept) :]
    if kept and cut:
        assert unicodedata.category(cut[0])[0] != "M"
        assert "\u200d" not in (kept[-1], cut[0])
        assert cut[0] not in "🏻🏼🏽🏾🏿"
        assert not (kept.endswith("🇩") and cut.startswith("🇪"))
        assert kept.count("[a link](") == kept.count("[a link](https://example.com/a)")


def test_text_of_exactly_the_limit_is_unchanged() -> None:
    assert shorten_text("four", 8) == "four"
    assert shorten_text("four", 7) == "fou"
    assert shorten_text("", 0) == ""


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
        ("a <at>Ada Lovelace</at> b", 2 * 20, "a"),
        ("a <at>Ada Lovelace</at> b", 2 * 24, "a <at>Ada Lovelace</at>"),
        ("👍🏽👍🏽", 2 * 6, "👍🏽"),
        ("👍🏽👍🏽", 2 * 7, "👍🏽"),
        ("a👩‍👩‍👧", 2 * 4, "a"),
        ("a🇩🇪", 2 * 3, "a"),
        ('"quoted" text', 2 * 12, '"quoted"'),
    ],
)
def test_text_is_cut_after_a_word(text: str, budget: int, kept: str) -> None:
    assert shorten_text(text, budget) == kept


def test_very_long_word_is_cut() -> None:
    assert shorten_text("a " + "b" * 1000, 2 * 600) == "a " + "b" * 598


def test_shortened_text_has_a_note_and_uses_the_limit() -> None:
    content = Content(title="Log", text="All of it. " * 20_000, facts=[Fact(title="Branch", value="main")])
    activity = fit_activity(content, LIMIT, render)
    text = rendered_text(activity)
    assert text.removesuffix(SHORTENED_NOTE).endswith((" it.", " of", " All"))
    assert text.endswith(SHORTENED_NOTE)
    assert LIMIT - 100 < count_utf16_bytes(activity) <= LIMIT


def test_shortening_renders_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Content] = []

    def count_and_render(content: Content) -> bytes:
        drawn.append(content)
        return render(content)

    measured: list[bytes] = []

    def measure(activity: bytes) -> int:
        measured.append(activity)
        return count_utf16_bytes(activity)

    monkeypatch.setattr(size, "count_utf16_bytes", measure)
    fit_activity(Content(title="Log", text="ä" * 500_000), LIMIT, count_and_render)
    assert len(drawn) == 3
    assert len(measured) < 30


def test_activity_too_large_without_its_text_is_refused() -> None:
    facts = [Fact(title="Log", value="x" * 1000)] * 50
    with pytest.raises(TooLarge) as refused:
        fit_activity(Content(title="Log", text="short", facts=facts), LIMIT, render)
    assert refused.value.size > LIMIT == refused.value.limit
    assert "xxx" not in str(refused.value)


def test_activity_over_the_limit_is_refused_and_at_the_limit_is_not() -> None:
    activity = b'{"type":"message"}'
    assert require_size(activity, 36) is activity
    with pytest.raises(TooLarge):
        require_size(activity, 35)


@pytest.mark.parametrize("text", ["[" * 60_000, "](" * 30_000, "\u0301" * 60_000, "🇩🇪" * 30_000, " " * 60_000])
def test_shortening_is_fast_for_any_text(text: str) -> None:
    assert len(shorten_text(text, 2 * 50_000)) <= 50_000
