"""The card of a digest: its lines, their order, its texts and its size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from shared.cards.digest import (
    MAX_CATEGORY_CHARS,
    MAX_DETAIL_CHARS,
    MAX_LINK_CHARS,
    MAX_TITLE_CHARS,
    MAX_VISIBLE_LINES,
    DigestLine,
    draw_digest_card,
)
from shared.cards.notification import render_activity
from shared.cards.replies import to_one_line
from shared.cards.validation import find_faults
from shared.contract.models import Notification
from shared.time.localtime import load_zone

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = load_zone("Europe/Berlin")


def line(title: str = "Build 1", **given: Any) -> DigestLine:
    values: dict[str, Any] = {"category": "Builds", "title": title, "at": NOON} | given
    return DigestLine(**values)


def text_of_runs(element: dict[str, Any]) -> str:
    return "".join(run["text"] for run in element["inlines"])


def visible_lines(card: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in card["body"] if each["type"] == "RichTextBlock"]


def test_line_has_linked_title_detail_updates_and_time() -> None:
    [element] = visible_lines(draw_digest_card([line(detail="Stage test", link="https://ci/1", times=3)], BERLIN, "en"))
    assert text_of_runs(element) == "Build 1 · Stage test · 3 updates · 23\u00a0Nov\u00a02026,\u00a013:00"
    assert element["inlines"][0]["selectAction"] == {"type": "Action.OpenUrl", "url": "https://ci/1"}


def test_lines_are_grouped_by_category_in_the_order_of_first_lines() -> None:
    lines = [line("A", category="Pager", urgent=True), line("B", category="Builds"), line("C", category="Pager")]
    card = draw_digest_card(lines, BERLIN, "en")
    texts = [text_of_runs(each).split(" ·")[0] if "inlines" in each else each.get("text", "") for each in card["body"]]
    assert texts[:6] == ["Digest: 3 notifications", "Pager (2)", "Urgent: A", "C", "Builds (1)", "B"]


def test_button_shows_the_further_lines_of_a_long_category() -> None:
    card = draw_digest_card([line(f"Build {number}") for number in range(MAX_VISIBLE_LINES + 7)], BERLIN, "en")
    assert len(visible_lines(card)) == MAX_VISIBLE_LINES
    [hidden] = [each for each in card["body"] if each.get("isVisible") is False]
    titles = [text_of_runs(each).split(" ·")[0] for each in hidden["items"]]
    assert titles == [f"Build {MAX_VISIBLE_LINES + n}" for n in range(7)]
    [buttons] = [each for each in card["body"] if each["type"] == "ActionSet"]
    [button] = buttons["actions"]
    # The button hides itself.
    assert (button["title"], button["targetElements"]) == ("Show 7 more", [hidden["id"], buttons["id"]])


def test_markdown_marks_are_stripped_from_text_runs() -> None:
    marked = (
        "# Stage **test** of `api_v2_x` [failed](https://x.example/)\n- _twice_ * 2\n1. see ![log](https://x.example/)"
    )
    [element] = visible_lines(draw_digest_card([line("**Build** 1", detail=marked)], BERLIN, "en"))
    assert text_of_runs(element).startswith("Build 1 · Stage test of api_v2_x failed twice * 2 see log · ")


def test_held_digest_explains_why_notifications_are_combined() -> None:
    card = draw_digest_card([line()], BERLIN, "en", held=True)
    texts = [each["text"] for each in card["body"] if each["type"] == "TextBlock"]
    assert "You had more than five held notifications" in texts[-1]
    assert "digest off" not in texts[-1]


def test_notifications_that_did_not_fit_are_counted_with_a_hint() -> None:
    card = draw_digest_card([line()], BERLIN, "en", more=12)
    texts = [each["text"] for each in card["body"] if each["type"] == "TextBlock"]
    assert "12 more in your next digest. Write **digest now** to get it immediately." in texts


def test_upstream_texts_are_not_rendered_as_markup() -> None:
    bad = "**[x](https://evil)** <at>all</at>\n# title"
    [element] = visible_lines(draw_digest_card([line(bad, detail=bad, category=bad)], BERLIN, "en"))
    assert {run["type"] for run in element["inlines"]} == {"TextRun"}
    heading = draw_digest_card([line(category=bad)], BERLIN, "en")["body"][1]["text"]
    assert "](" not in heading.replace("\\]\\(", "")
    assert "<at>" not in orjson.dumps(draw_digest_card([line(bad, category=bad)], BERLIN, "en")).decode()


def test_card_is_in_the_readers_language() -> None:
    card = draw_digest_card([line(urgent=True, times=2), line("B")], BERLIN, "de", more=1)
    assert card["fallbackText"].startswith("Übersicht: 3 Benachrichtigungen: ")
    assert text_of_runs(visible_lines(card)[0]) == "Dringend: Build 1 · 2 Updates · 23.11.2026,\u00a013:00"


def test_card_is_valid() -> None:
    lines = [line(f"Build {n}", category=f"C{n % 3}", urgent=n % 2 == 0, link="https://ci/", at=NOON + timedelta(n)) for n in range(40)]  # noqa: E501  # fmt: skip
    assert find_faults(draw_digest_card(lines, BERLIN, "en", more=3)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 a\nb", "\U0001f468\u200d\U0001f469\u200d\U0001f467 a b"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("Donau\xaddampf", "Donaudampf"),
        ("a\u202eb\x00c", "a b c"),
    ],
    ids=["family emoji", "Persian", "soft hyphen", "direction override"],
)
def test_invisible_characters_in_one_line(text: str, expected: str) -> None:
    assert to_one_line(text) == expected


def test_longest_single_line_fits_into_8_kb() -> None:
    wide = '\u20ac"'  # a character of two bytes in UTF-16, and one that JSON escapes
    longest = line(
        wide * MAX_TITLE_CHARS,
        detail=wide * MAX_DETAIL_CHARS,
        category=wide * MAX_CATEGORY_CHARS,
        link="https://ci.example/" + "x" * (MAX_LINK_CHARS - 19),
        urgent=True,
        times=200,
    )
    data = {
        "recipients": [{"conversation": "c"}],
        "category": "herald",
        "card": draw_digest_card([longest], BERLIN, "en", more=999),
    }
    assert render_activity(Notification.model_validate(data), 8 * 1024)


def test_too_long_link_is_left_out() -> None:
    [element] = visible_lines(draw_digest_card([line(link="https://ci/" + "x" * MAX_LINK_CHARS)], BERLIN, "en"))
    assert "selectAction" not in element["inlines"][0]


def test_each_reader_in_a_conversation_sees_the_time_as_their_own() -> None:
    lines = [line("**Build** [1]", detail="Stage (test)", link="https://ci/(1)", urgent=True)]
    card = draw_digest_card(lines, None, "en")
    [element] = [each for each in card["body"] if "ci" in each["text"]]
    assert element["text"] == (
        r"Urgent: [Build \[1\]](https://ci/%281%29) · Stage \(test\) · "
        "{{DATE(2026-11-23T12:00:00Z, SHORT)}} {{TIME(2026-11-23T12:00:00Z)}}"
    )
    assert "Time zone" not in card["body"][-1]["text"]
    assert "{{" not in card["fallbackText"]


def test_time_in_the_text_of_an_upstream_system_is_local_where_clients_do_not_evaluate_it() -> None:
    title = "Outage until {{TIME(2026-11-23T15:00:00Z)}}"
    card = draw_digest_card([line(title)], BERLIN, "en")
    assert text_of_runs(visible_lines(card)[0]).startswith("Outage until 16:00 · ")
    request = Notification.model_validate(
        {"recipients": [{"all": True}], "category": "ops", "content": {"title": title}}
    )
    activity = orjson.loads(render_activity(request, 80_000))
    assert activity["summary"] == "Outage until 15:00 UTC"
    assert activity["attachments"][0]["content"]["body"][0]["text"] == title
