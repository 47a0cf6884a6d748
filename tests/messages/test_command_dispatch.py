"""Commands through the real endpoint: signed messages come in, rows and answers come out."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from local.fake_teams.api import TeamsEvent
from messages.activity.schema import Activity
from messages.activity.verified import VerifiedActivity
from messages.commands.dispatch import dispatch_command
from messages.commands.handlers import MAX_COUNTED_MESSAGES, MAX_TOPIC_CHARS
from messages.commands.parser import Verb
from shared.cards.validation import find_faults
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import FOREVER, MAX_ENTRIES, Preferences
from shared.queue_messages import DELIVERIES, RECIPIENTS, Delivery, RecipientTask, Task
from shared.records import HeldDelivery
from shared.states import DeliveryState, Mode, Reason, ReferenceKind, Rule
from shared.time.localtime import load_zone
from tests.messages.users import ChatUser, card_lines, serve_endpoint
from tests.support.digests import slots_taken
from tests.support.herald import Herald, open_herald, user
from tests.support.tapped import TAP, Tap
from timer_digest.release_held import release

BERLIN = load_zone("Europe/Berlin")
CATEGORIES = Categories(
    [
        Category(name="security", title="Security *alerts*", mandatory=True),
        Category(name="builds", title="Builds"),
        Category(name="news", title="News", default=Mode.DIGEST),
    ]
)


@pytest.fixture
async def herald(herald: Herald) -> Herald:
    herald.services = replace(herald.services, categories=CATEGORIES)
    return herald


@pytest.fixture
async def chat(herald: Herald) -> AsyncIterator[ChatUser]:
    """Ada's own chat."""
    async with serve_endpoint(herald) as url:
        yield ChatUser(herald, url, (await herald.grow(people=1, teams=1, chats=1)).people[0], {})


@pytest.fixture
async def channel(chat: ChatUser) -> ChatUser:
    """Ada in a thread of a channel."""
    team = (await chat.herald.teams.world()).teams[0]
    return replace(chat, location={"team": team.id, "channel": team.channels[0].id, "thread": "1700000000000"})


@pytest.fixture
async def group(chat: ChatUser) -> ChatUser:
    """Ada in a group chat."""
    return replace(chat, location={"chat": (await chat.herald.teams.world()).chats[0].id})


async def count_recipient_tasks(herald: Herald) -> Counter[Task]:
    """Count the messages on queue `recipients`, by task."""
    queue = herald.outside_queues.get_queue_client(RECIPIENTS)
    return Counter([RecipientTask.decode(each.content.encode()).task for each in await queue.peek_messages(32)])


async def conversation_preferences(chat: ChatUser) -> Preferences:
    """Return the preferences of the group chat or channel."""
    identifier = chat.location.get("channel") or chat.location["chat"]
    reference = await chat.herald.services.conversations.get(chat.herald.tenant, ReferenceKind.CONVERSATION, identifier)
    assert reference
    return reference.preferences


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "pause": ({}, {"paused_until": FOREVER}, "Paused"),
    "resume": ({"paused_until": FOREVER}, {"paused_until": None}, "Resumed"),
    "quiet Mon-Fri 18:00-8:00; sat,sun": (
        {}, {"quiet": "mon-fri 18:00-08:00; sat,sun"}, "Quiet hours: mon-fri 18:00-08:00; sat,sun",
    ),
    "quiet off": ({"quiet": "sat,sun"}, {"quiet": ""}, "Quiet hours: none"),
    "timezone asia/tokyo": ({}, {"time_zone": "Asia/Tokyo"}, "Time zone: Asia/Tokyo"),
    "TZ W. Europe Standard Time.": ({}, {"time_zone": "Europe/Berlin"}, "Time zone: Europe/Berlin"),
    "timezone auto": ({"time_zone": "Asia/Tokyo"}, {"time_zone": ""}, "Time zone: Europe/Berlin"),
    "digest Weekly Monday 9:00": ({}, {"digest": "weekly mon 09:00"}, "Digest: weekly mon 09:00"),
    "digest off": ({}, {"digest": "off"}, "Digest: off"),
    "stop": ({}, {"stopped": True}, "Stopped"),
    "start": ({"stopped": True}, {"stopped": False}, "Started"),
}  # fmt: skip


async def store_teams_zone(chat: ChatUser) -> None:
    """Store the time zone of the person's Teams client, and drop the task that this enqueues."""
    await chat.run_command("help")
    await chat.herald.clear_queue(RECIPIENTS)


async def test_command_changes_the_row_and_reevaluates_held_deliveries(chat: ChatUser) -> None:
    await store_teams_zone(chat)
    for command, (before, after, title) in CHANGES.items():
        preferences = replace(Preferences(locale="en-GB"), **before)
        await chat.store_preferences(preferences)
        assert (await chat.run_command(f"<p>{command}</p>"))[0] == title
        assert replace(await chat.load_preferences(), version=0) == replace(preferences, **after), command
        assert await count_recipient_tasks(chat.herald) == {Task.RECONSIDER: 1}, command
        await chat.herald.clear_queue(RECIPIENTS)


async def test_pause_ends_in_the_time_zone_of_the_sender(chat: ChatUser) -> None:
    now = datetime(2026, 11, 23, 7, 15, tzinfo=UTC)
    chat.herald.clock.offset = now - datetime.now(UTC)
    for argument, ends in (
        ("2h", "Mon 23 Nov 2026, 10:15"),
        ("FOR 30 minutes", "Mon 23 Nov 2026, 08:45"),
        ("tomorrow", "Tue 24 Nov 2026, 09:00"),
        ("until wednesday", "Wed 25 Nov 2026, 09:00"),
        ("until 2026-12-24 09:00", "Thu 24 Dec 2026, 09:00"),
    ):
        assert (await chat.run_command(f"pause {argument}"))[0] == f"Paused until {ends} (Europe/Berlin)"
        until = (await chat.load_preferences()).paused_until
        assert until
        assert f"{until.astimezone(BERLIN):%a %d %b %Y, %H:%M}" == ends


async def test_chosen_time_zone_overrides_that_of_teams(chat: ChatUser) -> None:
    await chat.run_command("timezone Asia/Tokyo")
    answer = await chat.run_command("pause until 2027-01-01")
    assert answer[0] == "Paused until Fri 01 Jan 2027, 09:00 (Asia/Tokyo)"
    assert (await chat.load_preferences()).paused_until == datetime(2027, 1, 1, tzinfo=UTC)


async def test_message_without_a_time_zone_uses_the_stored_one(chat: ChatUser) -> None:
    await chat.write("help")
    answer = await chat.run_command("quiet", localTimezone=None, entities=None)
    assert answer == ["Quiet hours: none", "Time zone  Europe/Berlin (as in Teams)"]


REFUSED_COMMANDS = {
    "pause 2": "write a pause as 2h, 30m",
    "pause yesterday": "write a pause as 2h",
    "pause 2000d": "at most 366 days",
    "pause until 2020-01-01": "is in the past",
    "quiet sometimes": "such as mon or friday",
    "quiet 18:00-25:00": "“25:00” is not a time of day",
    "quiet mon-sun": "cannot cover the whole week",
    "timezone Berlni": "Did you mean Europe/Berlin?",
    "timezone EST": "Write America/New_York for the time zone with it, or Etc/GMT+5",
    "timezone +02:00": "is an offset, not a time zone",
    "timezone Customized Time Zone": "is a time zone that one computer defines, without known rules",
    "timezone Nowhere/Atall": "is not a time zone",
    "digest sometimes": "write a digest schedule as daily 09:00",
    "digest daily 9 times": "write a digest schedule as daily 09:00",
    "subscribe": "Which topic?",
    f"subscribe {'x' * (MAX_TOPIC_CHARS + 1)}": f"at most {MAX_TOPIC_CHARS} characters",
    "puase 2h": "“pause 2h”",
    "<at>Herald</at> STPO": "“stop”",
    "resume what I did": "“resume”",
    "stop the builds": "There is no category “the builds”. Categories: ",
    "stop Security *alerts*": "Security *alerts* is mandatory and cannot be turned off",
}


async def test_refused_command_changes_nothing_and_says_why(chat: ChatUser) -> None:
    await store_teams_zone(chat)
    for text, expected in REFUSED_COMMANDS.items():
        answer = await chat.run_command(text)
        assert answer[0] in ("Nothing was changed", "I do not know this command"), text
        assert expected.casefold() in answer[1].casefold(), text
    assert (await chat.load_preferences()) == Preferences()
    assert await count_recipient_tasks(chat.herald) == {}


async def test_topic_is_stored_as_written_and_found_in_any_case(chat: ChatUser) -> None:
    topics, recipient = chat.herald.services.topics, f"u:{chat.person.object_id}"

    async def subscribers(topic: str) -> Sequence[str]:
        return (await topics.subscribers(chat.herald.tenant, topic, "", 10))[0]

    assert await chat.run_command("subscribe Release Notes") == ["Subscribed", "Topic  Release Notes"]
    await chat.run_command("SUBSCRIBE RELEASE NOTES")
    await chat.run_command("subscribe builds")
    assert (await chat.load_preferences()).topics == ("Release Notes", "builds")
    assert await chat.run_command("topics") == ["Topics: 2", "Release Notes", "builds"]
    assert await subscribers("release notes") == [recipient]

    assert (await chat.run_command("unsubscribe release notes"))[0] == "Unsubscribed"
    assert await subscribers("Release Notes") == []
    assert await subscribers("builds") == [recipient]
    assert (await chat.load_preferences()).topics == ("builds",)
    assert (await chat.run_command("unsubscribe release notes"))[0] == "You were not subscribed"


async def test_topic_above_the_limit_is_refused(chat: ChatUser) -> None:
    await chat.store_preferences(Preferences(topics=tuple(map(str, range(MAX_ENTRIES)))))
    answer = await chat.run_command("subscribe one more")
    assert answer[:2] == ["Nothing was changed", f"You can subscribe to at most {MAX_ENTRIES} topics."]
    assert (await chat.herald.services.topics.subscribers(chat.herald.tenant, "one more", "", 10))[0] == []
    assert len(await chat.run_command("topics")) == 1 + MAX_ENTRIES


async def test_subscriber_receives_notifications_to_the_topic(chat: ChatUser) -> None:
    await chat.write("subscribe Releases")
    await chat.herald.submit({"topic": "releases"}, content={"title": "4.2 is out"})
    await chat.herald.handle_messages()
    titles = [each.activity["summary"] for each in await chat.herald.teams.received(person=chat.person.object_id)]
    assert sorted(titles) == ["4.2 is out", "Subscribed"]


async def test_stop_names_the_mandatory_categories_and_they_are_still_sent(chat: ChatUser) -> None:
    answer = await chat.run_command("stop")
    assert answer[-1] == "Still on, because they are mandatory:  Security *alerts*"
    recipient = user(chat.person)
    sent, suppressed = [await chat.herald.submit(recipient, category=each) for each in ("security", "builds")]
    await chat.herald.handle_messages()
    states = [(await chat.herald.row(each, f"u:{chat.person.object_id}"))["state"] for each in (sent, suppressed)]
    assert states == [DeliveryState.SENT, DeliveryState.SUPPRESSED]


async def test_resume_sends_held_messages(chat: ChatUser) -> None:
    await chat.write("pause")
    held = await chat.herald.submit(user(chat.person), content={"title": "Held"})
    await chat.herald.handle_messages()
    row = await chat.herald.row(held, f"u:{chat.person.object_id}")
    assert (row["state"], row["rule"]) == (DeliveryState.QUEUED, Rule.PAUSED)
    assert (await chat.run_command("status"))[-1] == "Held notifications  1"
    await chat.write("resume")
    await chat.herald.handle_messages()
    assert (await chat.herald.row(held, f"u:{chat.person.object_id}"))["state"] == DeliveryState.SENT


async def test_start_and_resume_name_the_other_one_if_it_still_holds_messages(chat: ChatUser) -> None:
    await chat.store_preferences(Preferences(stopped=True, paused_until=FOREVER))
    assert "paused" in (await chat.run_command("start"))[1]
    assert len(await chat.run_command("resume")) == 1
    await chat.store_preferences(Preferences(stopped=True, paused_until=FOREVER))
    assert "still off" in (await chat.run_command("resume"))[1]
    assert len(await chat.run_command("start")) == 1


async def test_log_has_no_message_text_and_no_personal_data(chat: ChatUser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for text in ("subscribe Merlin", "timezone Merlin", "merlin"):
            await chat.run_command(text)
        await chat.herald.handle_messages()
    ours = [each.getMessage() for each in caplog.records if not each.name.startswith(("azure", "aiohttp"))]
    assert not any("merlin" in each.lower() or chat.person.object_id in each for each in ours)


async def test_status_shows_all_settings_and_their_source(chat: ChatUser) -> None:
    chat.herald.clock.offset = datetime(2026, 11, 23, 12, tzinfo=UTC) - datetime.now(UTC)
    assert await chat.run_command("status") == [
        "Status",
        "Notifications  on",
        "Quiet hours  none",
        "Time zone  Europe/Berlin (as in Teams)",
        "Digest  daily 09:00 (default)",
        "Next digest  Tue 24 Nov 2026, 09:00 (Europe/Berlin)",
        "Categories  defaults",
        "Topics  none",
        "Held notifications  none",
    ]
    preferences = Preferences(
        time_zone="Asia/Tokyo",
        paused_until=datetime(2100, 1, 1, tzinfo=UTC),
        quiet="sat,sun",
        digest="weekly mon 09:00",
        default=Mode.DIGEST,
        categories={"builds": Mode.OFF, "security": Mode.OFF, "news": Mode.DIGEST, "odd": Mode.IMMEDIATE},
        topics=("a", "b"),
    )
    await chat.store_preferences(preferences)
    assert await chat.run_command("status") == [
        "Status",
        "Notifications  paused until Fri 01 Jan 2100, 09:00 (Asia/Tokyo)",
        "Quiet hours  sat,sun",
        "Time zone  Asia/Tokyo (your choice)",
        "Digest  weekly mon 09:00",
        "Next digest  Fri 01 Jan 2100, 09:00 (Asia/Tokyo)",
        "Categories  Builds: Off, all others: In the digest",
        "Topics  a, b",
        "Held notifications  none",
    ]
    await chat.store_preferences(replace(preferences, stopped=True))
    stopped = await chat.run_command("status")
    assert stopped[1].startswith("Notifications  off")
    assert stopped[5] == "Categories  Builds: Off, all others: In the digest"


async def test_status_counts_held_messages_up_to_a_limit(chat: ChatUser) -> None:
    now = chat.herald.clock()
    recipient = f"u:{chat.person.object_id}"
    for number in range(MAX_COUNTED_MESSAGES + 1):
        item = HeldDelivery(
            delivery=Delivery(f"{number:032x}", "0", recipient, "", 0),
            reason=Reason.PAUSED,
            until=now,
            notification_time=now,
            eligible_since=now,
            delivery_etag="",
        )
        await chat.herald.services.held_deliveries.put(chat.herald.tenant, item)
    assert (await chat.run_command("status"))[-1] == f"Held notifications  {MAX_COUNTED_MESSAGES} or more"


async def test_digest_now_is_enqueued_if_there_are_held_deliveries(chat: ChatUser) -> None:
    await store_teams_zone(chat)
    assert await chat.run_command("digest now") == ["Nothing is waiting for a digest"]
    assert await count_recipient_tasks(chat.herald) == {}
    await chat.store_preferences(Preferences(categories={"builds": Mode.DIGEST}))
    await chat.herald.submit(user(chat.person))
    await chat.herald.handle_messages()
    assert await chat.run_command("Digest Now.") == ["Your digest is on its way"]
    assert await count_recipient_tasks(chat.herald) == {Task.DIGEST_NOW: 1}


async def test_digest_now_is_enqueued_for_digest_items_held_by_a_pause(chat: ChatUser) -> None:
    await chat.store_preferences(Preferences(categories={"builds": Mode.DIGEST}, paused_until=FOREVER))
    await chat.herald.submit(user(chat.person), category="news")
    await chat.herald.handle_messages()
    assert await chat.run_command("digest now") == ["Nothing is waiting for a digest"]
    await chat.herald.submit(user(chat.person))
    await chat.herald.handle_messages()
    assert await chat.run_command("digest now") == ["Your digest is on its way"]


async def test_digest_now_while_a_digest_is_being_sent_says_that_newer_items_are_in_the_next_one(
    chat: ChatUser,
) -> None:
    await chat.herald.store_reference(chat.person)
    await chat.store_preferences(Preferences(categories={"builds": Mode.DIGEST}))
    await chat.herald.submit(user(chat.person))
    await chat.herald.handle_messages()
    task = RecipientTask(chat.herald.tenant, f"u:{chat.person.object_id}", Task.DIGEST_NOW)
    with slots_taken():
        await release(chat.herald.services, task)
    [first, second] = await chat.run_command("digest now")
    assert first == "Your digest is on its way"
    assert "next digest" in second


async def test_preferences_shows_the_card(chat: ChatUser) -> None:
    await chat.store_preferences(Preferences(quiet="sat,sun"))
    [activity] = await chat.write("Preferences")
    answer = await chat.find_answer(activity)
    assert answer
    assert answer.content.card
    assert find_faults(answer.content.card) == []
    inputs = {each["id"]: each.get("value") for each in answer.content.card["body"] if "id" in each}
    assert inputs["quiet_days"] == "sat,sun"


async def test_help_lists_every_command(chat: ChatUser) -> None:
    for text in ("help", "", "<at>Herald</at>", "?"):
        answer = await chat.run_command(text)
        assert answer[0] == "What you can write"
        assert [line.split()[0] for line in answer[1:]] == list(Verb)


async def test_command_in_a_channel_is_about_the_channel_and_answered_in_its_thread(channel: ChatUser) -> None:
    location = channel.location
    answer = await channel.run_command("quiet 18:00-08:00")
    assert answer == ["Quiet hours: 18:00-08:00", "Time zone  UTC (the default)"]
    await channel.run_command("subscribe Releases")
    assert (await conversation_preferences(channel)).quiet == "18:00-08:00"
    assert (await channel.load_preferences()) == Preferences()
    subscribers, _ = await channel.herald.services.topics.subscribers(channel.herald.tenant, "releases", "", 10)
    assert subscribers == [f"c:{location['channel']}"]
    await channel.herald.handle_messages()
    received = await channel.herald.teams.received()
    assert {each.conversation for each in received} == {f"{location['channel']};messageid={location['thread']}"}
    assert {each.activity["summary"] for each in received} == {"Quiet hours: 18:00-08:00", "Subscribed"}


async def test_command_in_a_group_chat_is_about_the_chat(group: ChatUser) -> None:
    await group.run_command("stop")
    assert (await conversation_preferences(group)).stopped
    assert (await group.load_preferences()) == Preferences()
    assert "about this conversation" in (await group.run_command("help"))[-1]
    [activity] = await group.write("preferences")
    assert await group.find_answer(activity)
    await group.herald.handle_messages()
    received = await group.herald.teams.received()
    assert {each.conversation for each in received} == {group.location["chat"]}
    assert len(received) == 3


async def test_resume_says_that_quiet_hours_still_apply(chat: ChatUser) -> None:
    await chat.store_preferences(Preferences(quiet="sat,sun"))
    chat.herald.clock.offset += datetime(2026, 11, 28, 12, tzinfo=UTC) - chat.herald.clock()
    assert await chat.run_command("resume") == [
        "Resumed",
        "Your quiet hours still apply until Mon 30 Nov 2026, 00:00 (Europe/Berlin).",
    ]


async def test_each_reader_of_an_answer_in_a_group_chat_sees_times_as_their_own(group: ChatUser) -> None:
    [title, _] = await group.run_command("pause 2h")
    until = (await conversation_preferences(group)).paused_until
    assert until
    functions = f"{{{{DATE({until:%Y-%m-%dT%H:%M:%SZ}, SHORT)}}}} {{{{TIME({until:%Y-%m-%dT%H:%M:%SZ})}}}}"
    assert title == f"Paused until {functions}"
    assert f"**Notifications**  paused until {functions}" in await group.run_command("status")
    [activity] = await group.write("preferences")
    answer = await group.find_answer(activity)
    assert answer
    assert answer.content.card
    assert f"Paused until {functions}" in [each.get("text") for each in answer.content.card["body"]]
    await group.herald.handle_messages()
    summaries = {each.activity["summary"] for each in await group.herald.teams.received()}
    assert f"Paused until {until:%Y-%m-%d %H:%M} UTC" in summaries


async def test_repeated_activity_has_one_answer_and_does_not_undo_newer_changes(chat: ChatUser) -> None:
    activity, *_ = await chat.write("pause 2h", repeat=5)
    await chat.write("resume")
    await chat.repeat(activity)
    assert (await chat.load_preferences()).paused_until is None
    await chat.herald.handle_messages()
    received = await chat.herald.teams.received(person=chat.person.object_id)
    titles = Counter(each.activity["summary"].split()[0] for each in received)
    assert titles == {"Paused": 1, "Resumed": 1}
    await chat.repeat(activity)
    await chat.herald.handle_messages()
    assert len(await chat.herald.teams.received(person=chat.person.object_id)) == 2


async def test_same_text_in_two_messages_is_two_commands(chat: ChatUser) -> None:
    for _ in range(2):
        await chat.write("help")
    await chat.herald.handle_messages()
    assert len(await chat.herald.teams.received(person=chat.person.object_id)) == 2


async def test_command_whose_answer_was_not_posted_is_answered_when_teams_repeats_it(
    chat: ChatUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = chat.herald.services.queues.enqueue_delivery

    async def fail(*_: object, **__: object) -> None:
        raise TimeoutError

    event = TeamsEvent(kind="message", person=chat.person.object_id, text="pause", endpoint=chat.endpoint)
    monkeypatch.setattr(chat.herald.services.queues, "enqueue_delivery", fail)
    [answer] = await chat.herald.teams.send_event(event)
    assert answer.status == 503
    monkeypatch.setattr(chat.herald.services.queues, "enqueue_delivery", enqueue)
    await chat.repeat(answer.activity)
    await chat.herald.handle_messages()
    [received] = await chat.herald.teams.received(person=chat.person.object_id)
    assert received.activity["summary"] == "Paused"
    assert (await chat.load_preferences()).version == 1


MARKUP = "[here](https://evil.example) **b** <at>Ada</at> ![x](https://evil.example/x.png) `c` # <b>d</b>"


async def test_echoed_text_is_plain_text(chat: ChatUser) -> None:
    for command in ("subscribe", "unsubscribe", "timezone", "quiet", "digest", "pause", "frobnicate"):
        [activity] = await chat.write(f"{command} {MARKUP.replace('<', '&lt;')}")
        answer = await chat.find_answer(activity)
        assert answer
        assert (card := answer.content.card)
        assert not any("evil" in each["text"] for each in card["body"] if each["type"] == "TextBlock"), command
        assert "evil" not in card["fallbackText"]
        assert "<" not in " ".join(card_lines(card)), command


async def test_echoed_text_is_truncated(chat: ChatUser) -> None:
    answer = await chat.run_command("x" * 3000)
    assert len(answer[1]) < 200


async def test_submit_of_a_card_is_not_answered_and_an_attachment_is_answered_with_help(chat: ChatUser) -> None:
    [submitted] = await chat.write("", value={"action": "save"})
    assert await chat.find_answer(submitted) is None
    [titled] = await chat.write("stop", value={"approve": True}, replyToId="1:card")
    assert await chat.find_answer(titled) is None
    assert not (await chat.load_preferences()).stopped
    [attached] = await chat.write("", attachments=[{"contentType": "image/png", "contentUrl": "https://example.com/x"}])
    answer = await chat.find_answer(attached)
    assert answer
    assert card_lines(answer.content.card or {})[0] == "What you can write"
    assert (await chat.run_command("pause", value={"from": "a suggested action"}))[0] == "Paused"


async def test_sender_without_a_valid_id_is_not_answered(chat: ChatUser) -> None:
    for changes in (
        {"from": {"aadObjectId": None}},
        {"from": {"aadObjectId": "not-an-object-id"}},
        {"conversation": {"conversationType": "groupChat", "id": "19:" + "x" * 600}},
        {"conversation": {"conversationType": "groupChat", "id": None}},
    ):
        await chat.write("help", **changes)
    assert await chat.herald.message_count(DELIVERIES) == 0


async def test_activity_without_an_id_is_answered(chat: ChatUser) -> None:
    for second in (1, 2):
        await chat.write("help", id=None, timestamp=f"2026-11-20T09:00:0{second}Z", repeat=2)
    await chat.herald.handle_messages()
    assert len(await chat.herald.teams.received(person=chat.person.object_id)) == 2


async def test_200_concurrent_commands_on_two_instances_lose_no_change_of_one_row(
    chat: ChatUser, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = [f"topic {number}" for number in range(MAX_ENTRIES)]
    monkeypatch.setattr("messages.endpoint.ACTIVITY_TIMEOUT_SECONDS", 60)  # the test machine is slower than Azure
    async with (
        open_herald(chat.herald.storage, chat.herald.teams, monkeypatch) as other,
        serve_endpoint(other) as other_url,
    ):
        events = [
            TeamsEvent(kind="message", person=chat.person.object_id, text=f"{verb} {topic}", endpoint=url)
            for topic, url in zip(topics, [chat.endpoint, other_url] * (MAX_ENTRIES // 2), strict=True)
            for verb in ("subscribe", "unsubscribe nothing of")
        ]
        random.Random(7).shuffle(events)
        answers = await chat.herald.teams.send_events(events, concurrency=200)
    assert Counter(answer.status for answer in answers) == {200: 200}
    assert sorted((await chat.load_preferences()).topics) == sorted(topics)
    assert await chat.herald.message_count(DELIVERIES) == 200


#: Three of them post the answer; `status` also counts held deliveries.
MAX_OPERATIONS = 9


class CountingTap(Tap):
    def __init__(self) -> None:
        self.operations = 0

    async def before(self, written: str) -> None:
        self.operations += 1


async def test_command_needs_few_storage_operations(tapped: Herald) -> None:
    async with serve_endpoint(tapped) as url:
        chat = ChatUser(tapped, url, (await tapped.grow(people=1)).people[0], {})
        costs = {}
        for number, text in enumerate(
            ["help", "status", "preferences", "subscribe a", "unsubscribe a", "topics", *CHANGES]
        ):
            [activity] = await chat.write("help")
            counted = Activity.model_validate(activity | {"id": f"counted {number}", "text": text})
            counting = CountingTap()
            token = TAP.set(counting)
            await dispatch_command(tapped.services, VerifiedActivity(counted, tapped.tenant, tapped.clock()))
            TAP.reset(token)
            costs[text] = counting.operations
    assert max(costs.values()) <= MAX_OPERATIONS, costs


async def test_category_is_turned_off_and_on_by_its_title(chat: ChatUser) -> None:
    assert (await chat.run_command("stop builds"))[0] == "Builds is off"
    assert (await chat.load_preferences()).categories == {"builds": Mode.OFF}
    assert (await chat.run_command("stop everything"))[0] == "Stopped"
    assert (await chat.run_command("start Builds"))[:2] == [
        "Builds is on", "Notifications are still off; “start” turns them on."
    ]  # fmt: skip
    preferences = await chat.load_preferences()
    assert (preferences.categories, preferences.stopped) == ({"builds": Mode.IMMEDIATE}, True)
    assert (await chat.run_command("start all"))[0] == "Started"


GERMAN_ANSWERS = {
    "hilfe": ["Was Sie schreiben können", "hilfe  Alle Befehle anzeigen"],
    "pause bis morgen": ["Pausiert bis Di 24.11.2026, 09:00 (Europe/Berlin)"],
    "weiter": ["Pause beendet"],
    "ruhe mo-fr 18-8 uhr; wochenende": ["Ruhezeiten: mo-fr 18:00-08:00; sa,so"],
    "zeitzone tokyo": [
        "Zeitzone: Asia/Tokyo",
        "Es ist Mo 23.11.2026, 21:00 (Asia/Tokyo), Ihre Wahl.",
    ],
    "zeitzone auto": ["Zeitzone: Europe/Berlin"],
    "übersicht montags um 9": ["Übersicht: wöchentlich mo 09:00"],
    "übersicht jetzt": ["Es gibt nichts für eine Übersicht"],
    "ruhe irgendwann": ["Nichts wurde geändert", "„irgendwann“ ist kein Wochentag, wie mo oder freitag."],
    "zeitzone Berlni": ["Nichts wurde geändert", "„Berlni“ ist keine Zeitzone. Meinten Sie Europe/Berlin?"],
    "einstelungen": [
        "Diesen Befehl kenne ich nicht",
        "Sie haben „einstelungen“ geschrieben. Meinten Sie „einstellungen“?",
    ],
    "stop builds": ["Builds ist aus"],
    "stopp": ["Ausgeschaltet"],
    "status": ["Status", "Benachrichtigungen  aus, außer verpflichtende; schreiben Sie „start“, um sie einzuschalten"],
}


async def test_answers_are_in_the_language_of_the_person(chat: ChatUser) -> None:
    chat.herald.clock.offset = datetime(2026, 11, 23, 12, tzinfo=UTC) - datetime.now(UTC)
    await chat.store_preferences(Preferences(locale="de"))
    for text, expected in GERMAN_ANSWERS.items():
        assert (await chat.run_command(text))[: len(expected)] == expected
