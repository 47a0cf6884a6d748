"""People see, click and write in the chat: the page of the real Playground, in a browser."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from local.processes import Azurite
from shared.preferences.preferences import Preferences
from shared.queue_messages import RESPONSES, Delivery
from shared.records import DeliveryRecord
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import DeliveryState, Mode, Reason, ReferenceKind
from shared.storage.clients import open_storage
from shared.storage.delivery_counts import FEW_SHARD
from tests.e2e.playground import PERSON, TENANT, PlaygroundChat, open_chat
from tests.support.browser import (
    TIMEOUT_SECONDS,
    find_card,
    needs_browser,
    open_browser,
    open_page,
    press_button,
    write_message,
)

POLL_SECONDS = 0.05
#: Set it to `docs/images` to update the pictures of the README.
IMAGE_FOLDER = os.environ.get("HERALD_IMAGES")

#: The looks of looks.css; "" is the light theme.
LOOKS = ("", "dark", "phone")

CATEGORIES = [
    {"name": "builds", "title": "Builds", "description": "Failed builds of main, and when they pass again"},
    {"name": "releases", "title": "Releases", "description": "New versions in production"},
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
    "links": [{"title": "Compare with build 41", "url": "https://ci.example/builds/41...42"}],
    "actions": [{"id": "retry", "title": "Retry"}],
}

pytestmark = [
    needs_browser,
    pytest.mark.asyncio(loop_scope="module"),  # the loop of the browser, which all tests share
]


@dataclass(frozen=True)
class Screen:
    """The chat in a browser; `services` access the app's storage."""

    chat: PlaygroundChat
    page: Page
    services: Services

    async def find_card(self, text: str) -> Locator:
        return await find_card(self.page, text)

    async def write_message(self, text: str) -> None:
        await write_message(self.page, text)

    async def check_looks(self, name: str, card: Locator) -> None:
        """Check that nothing is wider than the card, nor on a phone; save pictures in `IMAGE_FOLDER` if it is set."""
        frame = self.page.locator(".fai-OutputCard", has=card).last
        for look in LOOKS:
            await self.page.evaluate("look => { document.documentElement.className = look }", look)
            assert await frame.evaluate("card => card.scrollWidth <= card.clientWidth"), f"{name} is too wide ({look})"
            if IMAGE_FOLDER:
                await frame.screenshot(path=Path(IMAGE_FOLDER) / f"{name}{look and '-' + look}.png")
        await self.page.evaluate("document.documentElement.className = ''")

    async def read_preferences(self) -> Preferences:
        reference = await self.services.conversations.get(TENANT, ReferenceKind.USER, PERSON)
        return reference.preferences if reference else Preferences()

    async def wait_until_held(self, *keys: str) -> None:
        """Return once the deliveries of all these notifications are held."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            held: set[str] = set()
            while not held.issuperset(keys):
                await asyncio.sleep(POLL_SECONDS)
                rows = await self.services.held_deliveries.list(TENANT, f"u:{PERSON}", 100)
                held = {row.delivery.notification for row in rows}

    async def wait_until_final(self, key: str) -> DeliveryRecord:
        """Return the delivery of the notification with this key, once its state is final."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                delivery = await self.services.deliveries.get(Delivery(key, FEW_SHARD, f"u:{PERSON}", "", 0))
                if delivery and delivery.state.final:
                    return delivery
                await asyncio.sleep(POLL_SECONDS)

    async def take_responses(self) -> list[dict[str, Any]]:
        """Take all messages from the queue `responses`, as an upstream system does, and return their data."""
        queues, tables = open_storage(self.chat.settings)
        async with queues, tables:
            queue = queues.get_queue_client(RESPONSES)
            messages = [message async for message in queue.receive_messages(max_messages=32)]
            await queue.clear_messages()
            return [orjson.loads(message.content)["data"] for message in messages]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[PlaygroundChat]:
    folder = tmp_path_factory.mktemp("people")
    categories = folder / "categories.json"
    categories.write_bytes(orjson.dumps(CATEGORIES))
    with open_chat(azurite.connection_string("people"), folder, HERALD_CATEGORIES_FILE=str(categories)) as chat:
        yield chat


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_screen(chat: PlaygroundChat, browser: Browser) -> AsyncIterator[Screen]:
    """The page that all tests share, since it takes long to load; loading it installs the bot."""
    services = await open_services(load_settings(chat.settings), open_storage(chat.settings))
    page = await open_page(browser, chat.url, device_scale_factor=1.5 if IMAGE_FOLDER else 1)
    screen = Screen(chat, page, services)
    await screen.find_card(WELCOME)
    yield screen
    await page.close()
    await services.close()


@pytest_asyncio.fixture(loop_scope="module")
async def screen(shared_screen: Screen) -> Screen:
    """The chat with default preferences and no responses on the queue; messages of other tests are further up."""
    conversations = shared_screen.services.conversations
    await conversations.change_preferences(TENANT, ReferenceKind.USER, PERSON, lambda _: Preferences())
    await shared_screen.take_responses()
    return shared_screen


async def test_install_sends_welcome_card_whose_buttons_work(screen: Screen) -> None:
    welcome = await screen.find_card(WELCOME)
    await screen.check_looks("welcome", welcome)
    await press_button(welcome, "Send me a sample")
    await expect(welcome).to_contain_text("A sample notification is on its way.")
    sample = await screen.find_card("Triggered by you")
    await press_button(sample, "Acknowledge")
    await expect(sample).to_contain_text("Acknowledged on ")
    assert await screen.take_responses() == []

    await press_button(welcome, "Pause until tomorrow at 9:00")
    await expect(welcome).to_contain_text("Paused until ")
    assert (await screen.read_preferences()).paused_until


async def test_click_updates_card_and_is_reported_upstream(screen: Screen) -> None:
    screen.chat.send(FAILED, thread={"key": "build/42"})
    card = await screen.find_card("Build 42 failed")
    shown = ("3 of 412 tests", "Not deployed", "Triggered by the nightly schedule", "Open the build", "Compare with")
    for text in shown:
        await expect(card).to_contain_text(text)
    await screen.check_looks("chat", card)

    await press_button(card, "Retry")
    await expect(card).to_contain_text("Retry: recorded on ")
    await press_button(card, "Acknowledge")
    await expect(card).to_contain_text("Acknowledged on ")
    for title in ("Retry", "Acknowledge"):
        await expect(card.get_by_role("button", name=title)).to_have_count(0)
    responses = [(response["action"], response["user"]["id"]) for response in await screen.take_responses()]
    assert sorted(responses) == [("herald.acknowledge", PERSON), ("retry", PERSON)]

    await expect(card.get_by_text("Mute this thread for 7 days")).to_be_hidden()
    await press_button(card, "Manage")
    for title in ("Mute this thread for 7 days", "Turn off Builds", "Remind me in 1 hour", "Preferences"):
        await expect(card.get_by_role("button", name=title)).to_be_visible()
    await screen.check_looks("acted", card)

    await press_button(card, "Why did I get this?")
    why = await screen.find_card("It was sent directly to you.")
    await expect(why).to_contain_text("Category Builds: Delivered immediately (the default of this category).")
    await press_button(why, "Back")
    await expect(await screen.find_card("Build 42 failed")).to_contain_text("Acknowledged on ")


async def test_preferences_card_reports_invalid_input_and_saves_valid_input(screen: Screen) -> None:
    before = await screen.read_preferences()
    await screen.write_message("preferences")
    card = await screen.find_card("Turn off everything that is not mandatory")
    await expect(card).to_contain_text("Security: mandatory, always on")
    await card.get_by_role("combobox", name="Builds").click()
    await screen.page.get_by_role("option", name="In the digest", exact=True).click()
    await card.get_by_label("Quiet hours every day from").fill("18:00")
    await press_button(card, "Save")
    await expect(card).to_contain_text("Set both times, or none.")
    await expect(card).to_contain_text("Not saved yet")
    assert await screen.read_preferences() == before

    await expect(card.get_by_role("combobox", name="Builds")).to_have_value("In the digest")
    await card.get_by_label("Quiet hours every day until").fill("08:00")
    await press_button(card, "Save")
    await expect(card).to_contain_text("Preferences saved")
    preferences = await screen.read_preferences()
    assert (preferences.categories, preferences.quiet) == ({"builds": Mode.DIGEST}, "18:00-08:00")
    await expect(card.get_by_label("Quiet hours every day until")).to_have_value("8:00 AM")
    await screen.check_looks("preferences", card)


async def test_held_notifications_arrive_on_one_digest_card(screen: Screen) -> None:
    await screen.services.conversations.change_preferences(
        TENANT,
        ReferenceKind.USER,
        PERSON,
        lambda old: old.with_mode("builds", Mode.DIGEST).with_mode("releases", Mode.DIGEST),
    )
    for number in (50, 51, 52):
        update = {"title": f"Build {number} failed", "result": f"Production still runs build {number - 1}"}
        last = screen.chat.send(FAILED | update, thread={"key": "main", "onRepeat": "update"})
    releases = [
        screen.chat.send(
            {"title": f"Release {n} is out", "text": "12 changes", "link": FAILED["link"]}, category="releases"
        )
        for n in range(1, 8)
    ]
    urgent = screen.chat.send({"title": "Disk of db-2 is full", "result": "Builds are blocked"}, priority="urgent")
    await screen.wait_until_held(last, urgent, *releases)
    await screen.write_message("digest now")
    card = await screen.find_card("Digest: 11 notifications")
    for text in ("Urgent: Disk of db-2 is full", "Build 52 failed · Production still runs build 51 · 3 updates"):
        await expect(card).to_contain_text(text)
    await expect(card).not_to_contain_text("Build 51 failed")
    await expect(card.get_by_text("Release 1 is out")).to_be_hidden()
    await screen.check_looks("digest", card)
    await press_button(card, "Show 2 more")
    await expect(card.get_by_text("Release 1 is out")).to_be_visible()
    for key in (last, urgent, *releases):
        assert (await screen.wait_until_final(key)).state is DeliveryState.DIGESTED


async def test_opt_out_button_turns_off_only_its_category(screen: Screen) -> None:
    screen.chat.send(FAILED | {"title": "Build 43 failed"})
    card = await screen.find_card("Build 43 failed")
    await press_button(card, "Manage")
    await press_button(card, "Turn off Builds")
    await expect(card).to_contain_text("Builds is now off for you.")

    key = screen.chat.send({"title": "Build 44 failed"})
    suppressed = await screen.wait_until_final(key)
    assert (suppressed.state, suppressed.reason) == (DeliveryState.SUPPRESSED, Reason.OPTED_OUT)
    screen.chat.send({"title": "Release 7 is out"}, category="releases")
    await screen.find_card("Release 7 is out")
    screen.chat.send({"title": "Change your password"}, category="security")
    mandatory = await screen.find_card("Change your password")
    await press_button(mandatory, "Manage")
    await expect(mandatory.get_by_role("button", name="Move Security to my digest")).to_be_visible()
    await expect(mandatory.get_by_role("button", name="Turn off Security")).to_have_count(0)
    await expect(screen.page.get_by_text("Build 44 failed")).to_have_count(0)


async def test_commands_written_in_chat_are_answered(screen: Screen) -> None:
    for text, title, answer in (
        ("help", "What you can write", "pause 2h | until 14:00 | until monday"),
        ("puase 2h", "I do not know this command", "Did you mean “pause 2h”?"),
        ("pause 2h", "Paused until ", "Write “resume” to get them earlier"),
        ("subscribe releases", "Subscribed", "releases"),
        ("timezone Springfield", "Nothing was changed", "is not a time zone"),
        ("status", "Status", "paused until "),
    ):
        await screen.write_message(text)
        card = await screen.find_card(title)
        await expect(card).to_contain_text(answer)
    await screen.check_looks("answer", card)
    preferences = await screen.read_preferences()
    assert preferences.paused_until
    assert preferences.topics == ("releases",)
