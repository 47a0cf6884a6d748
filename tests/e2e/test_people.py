"""What people see, click and type: the page of the real Playground, in a browser."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from local.processes import Azurite
from shared.preferences.preferences import Preferences
from shared.queue_messages import RESPONSES, Delivery
from shared.records import DeliveryRecord
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import DeliveryState, Mode, Reason, ReferenceKind
from shared.storage.clients import open_storage
from tests.e2e.playground import PERSON, TENANT, Chat, open_chat

CHROMIUM = shutil.which("chromium")
#: Seconds in which a message comes, or a click is answered.
SOON = 30.0
#: Seconds between two looks at a table.
LOOK = 0.05
#: Set to `docs/images` it makes the README's pictures anew.
IMAGES = os.environ.get("HERALD_IMAGES")

CATEGORIES = [
    {"name": "builds", "title": "Builds", "description": "Builds of main that fail, and when all is well again"},
    {"name": "releases", "title": "Releases", "description": "What is in production since when"},
    {"name": "security", "title": "Security", "mandatory": True},
]
WELCOME = "I am here because you or your organisation installed me for you."
FAILED: dict[str, Any] = {
    "title": "Build 42 failed",
    "text": "Stage **test** failed: 3 of 412 tests.",
    "facts": [{"title": "Branch", "value": "main"}, {"title": "Commit", "value": "9f2c1e7"}],
    "result": "Not deployed; production still runs build 41",
    "actor": {"name": "the nightly schedule"},
    "link": {"title": "Open the build", "url": "https://ci.example/builds/42"},
    "actions": [{"id": "retry", "title": "Retry"}],
}

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed (apt-get install chromium)"),
    pytest.mark.asyncio(loop_scope="module"),  # that of the browser, which all share
]


@dataclass(frozen=True)
class Screen:
    """The chat before somebody's eyes; `services` look into the app's storage, `folder` takes pictures."""

    chat: Chat
    page: Page
    services: Services
    folder: Path

    async def card(self, text: str) -> Locator:
        """The newest card that says this, once there is one."""
        found = self.page.locator(".ac-adaptiveCard", has_text=text).last
        await expect(found).to_be_visible()
        return found

    async def press(self, card: Locator, title: str) -> None:
        await card.get_by_role("button", name=title, exact=True).click()

    async def write(self, text: str) -> None:
        await self.page.locator("[data-lexical-editor]").click()
        await self.page.keyboard.type(text)
        await self.page.keyboard.press("Enter")

    async def picture(self, name: str, card: Locator) -> None:
        """A picture of a card with its frame."""
        frame = self.page.locator(".fai-OutputCard", has=card)
        await frame.screenshot(path=self.folder / f"{name}.png")

    async def preferences(self) -> Preferences:
        known = await self.services.conversations.get(TENANT, ReferenceKind.USER, PERSON)
        return known.preferences if known else Preferences()

    async def kept(self, *keys: str) -> None:
        """Once all of these notifications wait for the next digest."""
        async with asyncio.timeout(SOON):
            there: set[str] = set()
            while not there.issuperset(keys):
                await asyncio.sleep(LOOK)
                waiting = await self.services.held_deliveries.of(TENANT, f"u:{PERSON}", 100)
                there = {each.delivery.notification for each in waiting}

    async def ended(self, key: str) -> DeliveryRecord:
        """The delivery of the notification of this key, once it has its final state."""
        async with asyncio.timeout(SOON):
            while True:
                known = await self.services.deliveries.get(Delivery(key, "0", f"u:{PERSON}", "", 0))
                if known and known.state.final:
                    return known
                await asyncio.sleep(LOOK)

    async def responses(self) -> list[dict[str, Any]]:
        """What upstream finds on the queue `responses`, and takes from it."""
        queues, tables = open_storage(self.chat.settings)
        async with queues, tables:
            queue = queues.get_queue_client(RESPONSES)
            found = [each async for each in queue.receive_messages(max_messages=32)]
            await queue.clear_messages()
            return [orjson.loads(each.content)["data"] for each in found]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[Chat]:
    folder = tmp_path_factory.mktemp("people")
    declared = folder / "categories.json"
    declared.write_bytes(orjson.dumps(CATEGORIES))
    with open_chat(azurite.connection_string("people"), folder, HERALD_CATEGORIES_FILE=str(declared)) as chat:
        yield chat


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shown(chat: Chat, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Screen]:
    """The page that all tests share, since to load it is dear; the bot is installed by it."""
    # So high that every card is seen whole; what moves, and what is not here, only takes time.
    page = await browser.new_page(
        viewport={"width": 1180, "height": 1300}, device_scale_factor=1.5 if IMAGES else 1, reduced_motion="reduce"
    )
    await page.route(lambda url: not url.startswith(chat.url), lambda route: route.abort())
    page.set_default_timeout(SOON * 1000)
    expect.set_options(timeout=SOON * 1000)
    services = await open_services(load_settings(chat.settings), open_storage(chat.settings))
    await page.goto(chat.url)
    screen = Screen(chat, page, services, Path(IMAGES) if IMAGES else tmp_path_factory.mktemp("pictures"))
    await screen.card(WELCOME)
    yield screen
    await page.close()
    await services.close()


@pytest_asyncio.fixture(loop_scope="module")
async def screen(shown: Screen) -> Screen:
    """The chat of somebody who wants what all want; what other tests have sent stands further up in it."""
    await shown.services.conversations.change_preferences(TENANT, ReferenceKind.USER, PERSON, lambda _: Preferences())
    await shown.responses()
    return shown


async def test_the_welcome_comes_with_the_install_and_leads_on(screen: Screen) -> None:
    welcome = await screen.card(WELCOME)
    await screen.press(welcome, "Send me a sample")
    await expect(welcome).to_contain_text("A sample notification is on its way.")
    sample = await screen.card("Triggered by your request for a sample")
    await screen.press(sample, "Acknowledge")
    await expect(sample).to_contain_text("Acknowledged on ")
    assert await screen.responses() == []

    await screen.press(welcome, "Pause until tomorrow at 9:00")
    await expect(welcome).to_contain_text("Paused until ")
    assert (await screen.preferences()).paused_until


async def test_a_click_is_answered_on_the_card_and_told_upstream(screen: Screen) -> None:
    screen.chat.send(FAILED, thread={"key": "build/42"})
    card = await screen.card("Build 42 failed")
    for text in ("3 of 412 tests", "Not deployed", "Triggered by the nightly schedule", "Open the build"):
        await expect(card).to_contain_text(text)
    await screen.picture("chat", card)

    await screen.press(card, "Retry")
    await expect(card).to_contain_text("Retry: recorded on ")
    await screen.press(card, "Acknowledge")
    await expect(card).to_contain_text("Acknowledged on ")
    for done in ("Retry", "Acknowledge"):
        await expect(card.get_by_role("button", name=done)).to_have_count(0)
    told = [(each["action"], each["user"]["id"]) for each in await screen.responses()]
    assert sorted(told) == [("herald.acknowledge", PERSON), ("retry", PERSON)]

    await expect(card.get_by_text("Mute this thread for 7 days")).to_be_hidden()
    await screen.press(card, "Manage")
    for title in ("Mute this thread for 7 days", "Turn off Builds", "Remind me in 1 hour", "Preferences"):
        await expect(card.get_by_role("button", name=title)).to_be_visible()
    await screen.picture("acted", card)

    await screen.press(card, "Why did I get this?")
    why = await screen.card("It was sent directly to you.")
    await expect(why).to_contain_text("Category Builds: Delivered immediately (the default of this category).")
    await screen.press(why, "Back")
    await expect(await screen.card("Build 42 failed")).to_contain_text("Acknowledged on ")


async def test_preferences_typed_in_the_chat_are_saved_in_place(screen: Screen) -> None:
    before = await screen.preferences()
    await screen.write("preferences")
    card = await screen.card("Turn off all notifications except mandatory ones")
    await expect(card).to_contain_text("Security: mandatory, always on")
    await card.get_by_role("combobox", name="Builds").click()
    await screen.page.get_by_role("option", name="In the digest", exact=True).click()
    await card.get_by_label("Quiet hours").fill("whenever")
    await screen.press(card, "Save")
    await expect(card).to_contain_text("'whenever' is not a day of the week")
    await expect(card).to_contain_text("Not saved yet")
    assert await screen.preferences() == before

    await expect(card.get_by_role("combobox", name="Builds")).to_have_value("In the digest")
    await card.get_by_label("Quiet hours").fill("mon-fri 18:00-8:00; sat,sun")
    await screen.press(card, "Save")
    await expect(card).to_contain_text("Preferences saved")
    preferences = await screen.preferences()
    assert (preferences.categories, preferences.quiet) == ({"builds": Mode.DIGEST}, "mon-fri 18:00-08:00; sat,sun")
    await expect(card.get_by_label("Quiet hours")).to_have_value(preferences.quiet)
    await screen.picture("preferences", card)


async def test_what_was_kept_comes_on_one_card(screen: Screen) -> None:
    await screen.services.conversations.change_preferences(
        TENANT,
        ReferenceKind.USER,
        PERSON,
        lambda old: old.with_mode("builds", Mode.DIGEST).with_mode("releases", Mode.DIGEST),
    )
    for number in (50, 51, 52):
        told = {"title": f"Build {number} failed", "result": f"Production still runs build {number - 1}"}
        last = screen.chat.send(FAILED | told, thread={"key": "main", "onRepeat": "update"})
    alone = [
        screen.chat.send(
            {"title": f"Release {n} is out", "text": "12 changes", "link": FAILED["link"]}, category="releases"
        )
        for n in range(1, 8)
    ]
    urgent = screen.chat.send({"title": "Disk of db-2 is full", "result": "Builds stand still"}, priority="urgent")
    await screen.kept(last, urgent, *alone)
    await screen.write("digest now")
    card = await screen.card("Digest: 11 notifications")
    for text in ("Urgent: Disk of db-2 is full", "Build 52 failed · Production still runs build 51 · 3 updates"):
        await expect(card).to_contain_text(text)
    await expect(card).not_to_contain_text("Build 51 failed")
    await expect(card.get_by_text("Release 1 is out")).to_be_hidden()
    await screen.picture("digest", card)
    await screen.press(card, "Show 2 more")
    await expect(card.get_by_text("Release 1 is out")).to_be_visible()
    for key in (last, urgent, *alone):
        assert (await screen.ended(key)).state is DeliveryState.DIGESTED


async def test_an_opt_out_by_button_stops_that_category_and_no_other(screen: Screen) -> None:
    screen.chat.send(FAILED | {"title": "Build 43 failed"})
    card = await screen.card("Build 43 failed")
    await screen.press(card, "Manage")
    await screen.press(card, "Turn off Builds")
    await expect(card).to_contain_text("Builds is now off for you.")

    again = screen.chat.send({"title": "Build 44 failed"})
    stopped = await screen.ended(again)
    assert (stopped.state, stopped.reason) == (DeliveryState.SUPPRESSED, Reason.OPTED_OUT)
    screen.chat.send({"title": "Release 7 is out"}, category="releases")
    await screen.card("Release 7 is out")
    screen.chat.send({"title": "Change your password"}, category="security")
    mandatory = await screen.card("Change your password")
    await screen.press(mandatory, "Manage")
    await expect(mandatory.get_by_role("button", name="Move Security to my digest")).to_be_visible()
    await expect(mandatory.get_by_role("button", name="Turn off Security")).to_have_count(0)
    await expect(screen.page.get_by_text("Build 44 failed")).to_have_count(0)


async def test_what_is_typed_in_the_chat_is_answered_there(screen: Screen) -> None:
    for typed, title, told in (
        ("help", "What you can write", "pause 2h | until 14:00 | until monday"),
        ("puase 2h", "There is no such command", "Did you mean “pause 2h”?"),
        ("pause 2h", "Paused until ", "Write “resume” to get them earlier"),
        ("subscribe releases", "Subscribed", "releases"),
        ("status", "Status", "paused until "),
        ("timezone Springfield", "Nothing was changed", "is not an IANA or Windows time zone"),
    ):
        await screen.write(typed)
        await expect(await screen.card(title)).to_contain_text(told)
    preferences = await screen.preferences()
    assert preferences.paused_until
    assert preferences.topics == ("releases",)
