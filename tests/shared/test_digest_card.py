"""The card of a digest: what is on it, in which order, and within what Teams shows and takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from shared.cards.digest import MAX_DETAIL_CHARS, MAX_LINK_CHARS, MAX_NAME_CHARS, MAX_TITLE_CHARS, SHOWN, Line, draw
from shared.cards.notification import activity
from shared.cards.replies import one_line
from shared.cards.validation import faults
from shared.contract.models import Notification
from shared.time.localtime import load_zone

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = load_zone("Europe/Berlin")


def line(title: str = "Build 1", **given: Any) -> Line:
    whole: dict[str, Any] = {"category": "Builds", "title": title, "at": NOON} | given
    return Line(**whole)


def runs(element: dict[str, Any]) -> str:
    return "".join(run["text"] for run in element["inlines"])


def test_a_line_says_what_when_and_how_often_and_its_title_is_the_link() -> None:
    [element] = shown(draw([line(detail="Stage test", link="https://ci/1", times=3)], BERLIN, "en"))
    assert runs(element) == "Build 1 · Stage test · 3 updates · 2026\u201111\u201123\u00a013:00"
    assert element["inlines"][0]["selectAction"] == {"type": "Action.OpenUrl", "url": "https://ci/1"}


def shown(card: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in card["body"] if each["type"] == "RichTextBlock"]


def test_categories_stand_together_in_the_order_of_their_first_lines() -> None:
    lines = [line("A", category="Pager", urgent=True), line("B", category="Builds"), line("C", category="Pager")]
    card = draw(lines, BERLIN, "en")
    texts = [runs(each).split(" ·")[0] if "inlines" in each else each.get("text", "") for each in card["body"]]
    assert texts[:6] == ["Digest: 3 notifications", "Pager (2)", "Urgent: A", "C", "Builds (1)", "B"]


def test_of_a_long_category_the_rest_is_on_the_card_behind_a_button() -> None:
    card = draw([line(f"Build {number}") for number in range(SHOWN + 7)], BERLIN, "en")
    assert len(shown(card)) == SHOWN
    [hidden] = [each for each in card["body"] if each.get("isVisible") is False]
    assert [runs(each).split(" ·")[0] for each in hidden["items"]] == [f"Build {SHOWN + n}" for n in range(7)]
    [buttons] = [each for each in card["body"] if each["type"] == "ActionSet"]
    [button] = buttons["actions"]
    # It is gone once it has shown them.
    assert (button["title"], button["targetElements"]) == ("and 7 more", [hidden["id"], buttons["id"]])


def test_what_is_not_read_as_markdown_is_shown_without_its_marks() -> None:
    marked = (
        "# Stage **test** of `api_v2_x` [failed](https://x.example/)\n- _twice_ * 2\n1. see ![log](https://x.example/)"
    )
    [element] = shown(draw([line("**Build** 1", detail=marked)], BERLIN, "en"))
    assert runs(element).startswith("Build 1 · Stage test of api_v2_x failed twice * 2 see log · ")


def test_who_has_no_digests_is_told_why_these_come_together() -> None:
    said = [each["text"] for each in draw([line()], BERLIN, "en", held=True)["body"] if each["type"] == "TextBlock"]
    assert "More than five were held for you" in said[-1]
    assert "digest off" not in said[-1]


def test_what_did_not_fit_is_said_with_the_way_to_have_it() -> None:
    said = [each["text"] for each in draw([line()], BERLIN, "en", more=12)["body"] if each["type"] == "TextBlock"]
    assert "… and 12 more, in the next digest. **digest now** sends them at once." in said


def test_nothing_in_it_is_read_as_markup() -> None:
    bad = "**[x](https://evil)** <at>all</at>\n# title"
    [element] = shown(draw([line(bad, detail=bad, category=bad)], BERLIN, "en"))
    assert {run["type"] for run in element["inlines"]} == {"TextRun"}
    heading = draw([line(category=bad)], BERLIN, "en")["body"][1]["text"]
    assert "](" not in heading.replace("\\]\\(", "")
    assert "<at>" not in orjson.dumps(draw([line(bad, category=bad)], BERLIN, "en")).decode()


def test_it_speaks_the_language_of_its_reader() -> None:
    card = draw([line(urgent=True, times=2), line("B")], BERLIN, "de", more=1)
    assert card["fallbackText"].startswith("Übersicht: 3 Mitteilungen: ")
    assert runs(shown(card)[0]) == "Dringend: Build 1 · 2 Meldungen · 2026\u201111\u201123\u00a013:00"


def test_teams_shows_all_of_it() -> None:
    lines = [line(f"Build {n}", category=f"C{n % 3}", urgent=n % 2 == 0, link="https://ci/", at=NOON + timedelta(n)) for n in range(40)]  # noqa: E501  # fmt: skip
    assert faults(draw(lines, BERLIN, "en", more=3)) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 a\nb", "\U0001f468\u200d\U0001f469\u200d\U0001f467 a b"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("Donau\xaddampf", "Donaudampf"),
        ("a\u202eb\x00c", "a b c"),
    ],
    ids=["a family", "Persian", "a soft hyphen", "what turns the text around"],
)
def test_what_is_unseen_joins_as_it_is_meant_to(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_one_line_fits_into_8_kb_however_long_it_is() -> None:
    wide = '\u20ac"'  # a character of two bytes in UTF-16, and one that JSON escapes
    longest = line(
        wide * MAX_TITLE_CHARS,
        detail=wide * MAX_DETAIL_CHARS,
        category=wide * MAX_NAME_CHARS,
        link="https://ci.example/" + "x" * (MAX_LINK_CHARS - 19),
        urgent=True,
        times=200,
    )
    data = {
        "recipients": [{"conversation": "c"}],
        "category": "herald",
        "card": draw([longest], BERLIN, "en", more=999),
    }
    assert activity(Notification.model_validate(data), 8 * 1024)


def test_a_link_that_is_too_long_is_left_out() -> None:
    [element] = shown(draw([line(link="https://ci/" + "x" * MAX_LINK_CHARS)], BERLIN, "en"))
    assert "selectAction" not in element["inlines"][0]
