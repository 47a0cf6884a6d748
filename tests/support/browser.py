"""A browser for the page of the Playground: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed (apt-get install chromium)")
#: The time for a message to arrive, or a click to be answered.
TIMEOUT_SECONDS = 30.0
#: Looks of a card for pictures, besides the light theme.
LOOKS_FILE = Path(__file__).with_name("looks.css")


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        await browser.close()


async def open_page(browser: Browser, url: str, **options: Any) -> Page:
    """Open the chat at `url`. Animations and requests to other hosts are off, since they only take time."""
    # High enough to show each card whole.
    page = await browser.new_page(viewport={"width": 1180, "height": 1300}, reduced_motion="reduce", **options)
    await page.route(lambda each: not each.startswith(url), lambda route: route.abort())
    page.set_default_timeout(TIMEOUT_SECONDS * 1000)
    expect.set_options(timeout=TIMEOUT_SECONDS * 1000)
    await page.goto(url)
    await page.add_style_tag(path=LOOKS_FILE)
    return page


async def find_card(page: Page, text: str) -> Locator:
    """Return the newest card with this text, once it is visible."""
    card = page.locator(".ac-adaptiveCard", has_text=text).last
    await expect(card).to_be_visible()
    return card


async def press_button(card: Locator, title: str) -> None:
    await card.get_by_role("button", name=title, exact=True).click()


async def write_message(page: Page, text: str) -> None:
    await page.locator("[data-lexical-editor]").click()
    await page.keyboard.type(text)
    await page.keyboard.press("Enter")
