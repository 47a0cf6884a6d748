"""The first minute with Herald: the chat that `dev.py up` names, in a browser, in English and in German."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Page, expect

from tests.support.browser import find_card, needs_browser, open_browser, open_page, press_button, write_message
from tests.support.local_stack import LocalStack, wait_until_ready

pytestmark = needs_browser


@pytest.mark.timeout(180)
async def test_whoever_opens_the_chat_is_welcomed_and_sets_preferences_without_typing_a_rule(
    stack: LocalStack,
) -> None:
    with stack.start() as process:
        try:
            wait_until_ready(process)
            async with open_browser() as browser:
                page = await open_page(browser, f"http://127.0.0.1:{stack.ports[1]}")
                await _try_english(page)
                await page.reload()
                await _try_german(page)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


async def _try_english(page: Page) -> None:
    """Save a preferences card with an error first; its language is then German."""
    welcome = await find_card(page, "Welcome to Herald")
    first = await find_card(page, "Herald reaches you")
    await expect(page.locator(".ac-adaptiveCard")).to_have_count(2)
    await press_button(first, "Acknowledge")
    await expect(first).to_contain_text("Acknowledged on ")
    await press_button(welcome, "Preferences")
    card = await find_card(page, "Quiet hours every day from")
    now = datetime.now(UTC)  # quiet hours that have begun would hold the next first card
    await card.get_by_label("Quiet hours every day from").fill(f"{now + timedelta(hours=2):%H:%M}")
    await press_button(card, "Save")
    await expect(card).to_contain_text("Set both times, or none.")
    await card.get_by_label("Quiet hours every day until").fill(f"{now + timedelta(hours=3):%H:%M}")
    await card.get_by_role("combobox", name="Language").click()
    await page.get_by_role("option", name="Deutsch", exact=True).click()
    await press_button(card, "Save")
    await find_card(page, "Einstellungen gespeichert")


async def _try_german(page: Page) -> None:
    await find_card(page, "Willkommen bei Herald")
    first = await find_card(page, "Herald erreicht Sie")
    await expect(page.locator(".ac-adaptiveCard")).to_have_count(2)
    await press_button(first, "Verwalten")
    await expect(first).to_contain_text("In 1 Stunde erinnern")
    await write_message(page, "einstellungen")
    card = await find_card(page, "Ruhezeit jeden Tag von")
    for label in ("Ruhezeit jeden Tag von", "Ruhezeit jeden Tag bis"):
        await card.get_by_label(label).fill("09:00")
    await press_button(card, "Speichern")
    await expect(card).to_contain_text("Noch nicht gespeichert")
    await expect(card).to_contain_text("hat denselben Anfang und dasselbe Ende")
    await write_message(page, "hilfe")
    await find_card(page, "Was Sie schreiben können")
