"""Commands through the real endpoint: signed activities in, rows and answers out."""

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
from messages.activity import verified
from messages.activity.schema import Incoming
from messages.commands.dispatch import dispatch_command
from messages.commands.handlers import MAX_COUNTED, MAX_TOPIC_CHARS
from messages.commands.parser import Verb
from shared.cards.validation import find_faults
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import FOREVER, MAX_ENTRIES, Preferences
from shared.queue_messages import DELIVERIES, RECIPIENTS, Delivery, RecipientTask, Task
from shared.records import HeldDelivery
from shared.states import DeliveryState, Mode, Reason, ReferenceKind, Rule
from shared.time.localtime import load_zone
from tests.messages.people import Chat, endpoint, lines
from tests.support.herald import Herald, opened, user
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
async def chat(herald: Herald) -> AsyncIterator[Chat]:
    """Ada's own chat."""
    async with endpoint(herald) as url:
        yield Chat(herald, url, (await herald.grow(people=1, teams=1, chats=1)).people[0], {})


@pytest.fixture
async def channel(chat: Chat) -> Chat:
    """Ada in a thread of a channel."""
    team = (await chat.herald.teams.world()).teams[0]
    return replace(chat, place={"team": team.id, "channel": team.channels[0].id, "thread": "1700000000000"})


@pytest.fixture
async def group(chat: Chat) -> Chat:
    """Ada in a group chat."""
    return replace(chat, place={"chat": (await chat.herald.teams.world()).chats[0].id})


async def people_tasks(herald: Herald) -> Counter[Task]:
    """What is to be done with what waits, by the messages on the queue."""
    queue = herald.outside_queues.get_queue_client(RECIPIENTS)
    return Counter([RecipientTask.decode(each.content.encode()).task for each in await queue.peek_messages(32)])


async def in_place(chat: Chat) -> Preferences:
    """What the group chat or channel wants."""
    identifier = chat.place.get("channel") or chat.place["chat"]
    found = await chat.herald.services.conversations.get(chat.herald.tenant, ReferenceKind.CONVERSATION, identifier)
    assert found
    return found.preferences


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "pause": ({}, {"paused_until": FOREVER}, "Paused"),
    "resume": ({"paused_until": FOREVER}, {"paused_until": None}, "Not paused any more"),
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


async def meet(chat: Chat) -> None:
    """Have their time zone known, by which what waits has been decided anew."""
    await chat.ask("help")
    await chat.herald.lose(RECIPIENTS)


async def test_a_command_changes_the_row_and_has_what_waits_decided_anew(chat: Chat) -> None:
    await meet(chat)
    for command, (before, after, title) in CHANGES.items():
        wanted = replace(Preferences(locale="de"), **before)
        await chat.prefer(wanted)
        assert (await chat.ask(f"<p>{command}</p>"))[0] == title
        assert replace(await chat.preferences(), version=0) == replace(wanted, **after), command
        assert await people_tasks(chat.herald) == {Task.RECONSIDER: 1}, command
        await chat.herald.lose(RECIPIENTS)


async def test_a_pause_ends_by_the_clocks_of_who_wrote(chat: Chat) -> None:
    now = datetime(2026, 11, 23, 7, 15, tzinfo=UTC)
    chat.herald.clock.moved = now - datetime.now(UTC)
    for argument, ends in (
        ("2h", "Mon 23 Nov 2026, 10:15"),
        ("FOR 30 minutes", "Mon 23 Nov 2026, 08:45"),
        ("tomorrow", "Tue 24 Nov 2026, 09:00"),
        ("until wednesday", "Wed 25 Nov 2026, 09:00"),
        ("until 2026-12-24 09:00", "Thu 24 Dec 2026, 09:00"),
    ):
        assert (await chat.ask(f"pause {argument}"))[0] == f"Paused until {ends} (Europe/Berlin)"
        until = (await chat.preferences()).paused_until
        assert until
        assert f"{until.astimezone(BERLIN):%a %d %b %Y, %H:%M}" == ends


async def test_a_chosen_zone_goes_before_that_of_teams(chat: Chat) -> None:
    await chat.ask("timezone Asia/Tokyo")
    told = await chat.ask("pause until 2027-01-01")
    assert told[0] == "Paused until Fri 01 Jan 2027, 09:00 (Asia/Tokyo)"
    assert (await chat.preferences()).paused_until == datetime(2027, 1, 1, tzinfo=UTC)


async def test_a_message_without_a_zone_goes_by_the_one_that_is_known(chat: Chat) -> None:
    await chat.write("help")
    told = await chat.ask("quiet", localTimezone=None, entities=None)
    assert told == ["Quiet hours: none", "Time zone  Europe/Berlin (from Teams)"]


WRONG = {
    "pause 2": "write a pause as 2h, 30m",
    "pause yesterday": "write a pause as 2h",
    "pause 2000d": "at most 366 days",
    "pause until 2020-01-01": "is in the past",
    "quiet sometimes": "such as mon or friday",
    "quiet 18:00-25:00": "'25:00' is not a time of day",
    "quiet mon-sun": "cannot cover the whole week",
    "timezone Berlin": "did you mean Europe/Berlin?",
    "timezone +02:00": "is an offset, not a time zone",
    "timezone Nowhere/Atall": "is not an IANA or Windows time zone",
    "digest sometimes": "write a digest schedule as daily 09:00",
    "digest daily 9 o'clock": "write a digest schedule as daily 09:00",
    "subscribe": "Which topic?",
    f"subscribe {'x' * (MAX_TOPIC_CHARS + 1)}": f"at most {MAX_TOPIC_CHARS} characters",
    "puase 2h": "“pause 2h”",
    "<at>Herald</at> STPO": "“stop”",
    "resume what I did": "“resume”",
}


async def test_what_cannot_be_done_changes_nothing_and_says_why(chat: Chat) -> None:
    await meet(chat)
    for text, why in WRONG.items():
        told = await chat.ask(text)
        assert told[0] in ("Nothing was changed", "There is no such command"), text
        assert why in told[1], text
    assert (await chat.preferences()) == Preferences()
    assert await people_tasks(chat.herald) == {}


async def test_a_subscription_is_kept_as_written_and_found_in_any_case(chat: Chat) -> None:
    topics, recipient = chat.herald.services.topics, f"u:{chat.person.object_id}"

    async def subscribers(topic: str) -> Sequence[str]:
        return (await topics.subscribers(chat.herald.tenant, topic, "", 10))[0]

    assert await chat.ask("subscribe Release Notes") == ["Subscribed", "Topic  Release Notes"]
    await chat.ask("SUBSCRIBE RELEASE NOTES")
    await chat.ask("subscribe builds")
    assert (await chat.preferences()).topics == ("Release Notes", "builds")
    assert await chat.ask("topics") == ["Topics: 2", "Release Notes", "builds"]
    assert await subscribers("release notes") == [recipient]

    assert (await chat.ask("unsubscribe release notes"))[0] == "Not subscribed any more"
    assert await subscribers("Release Notes") == []
    assert await subscribers("builds") == [recipient]
    assert (await chat.preferences()).topics == ("builds",)
    assert (await chat.ask("unsubscribe release notes"))[0] == "There was no such subscription"


async def test_one_topic_too_many_is_not_subscribed(chat: Chat) -> None:
    await chat.prefer(Preferences(topics=tuple(map(str, range(MAX_ENTRIES)))))
    told = await chat.ask("subscribe one more")
    assert told[:2] == ["Nothing was changed", f"there are too many topics: at most {MAX_ENTRIES}"]
    assert (await chat.herald.services.topics.subscribers(chat.herald.tenant, "one more", "", 10))[0] == []
    assert len(await chat.ask("topics")) == 1 + MAX_ENTRIES


async def test_a_topic_reaches_who_subscribed_to_it(chat: Chat) -> None:
    await chat.write("subscribe Releases")
    await chat.herald.ask({"topic": "releases"}, content={"title": "4.2 is out"})
    await chat.herald.send()
    titles = [each.activity["summary"] for each in await chat.herald.teams.received(person=chat.person.object_id)]
    assert sorted(titles) == ["4.2 is out", "Subscribed"]


async def test_stop_names_what_is_mandatory_and_stays(chat: Chat) -> None:
    told = await chat.ask("stop")
    assert told[-1] == "Mandatory, cannot be turned off:  Security *alerts*"
    recipient = user(chat.person)
    sent, kept = [await chat.herald.ask(recipient, category=each) for each in ("security", "builds")]
    await chat.herald.send()
    states = [(await chat.herald.row(each, f"u:{chat.person.object_id}"))["state"] for each in (sent, kept)]
    assert states == [DeliveryState.SENT, DeliveryState.SUPPRESSED]


async def test_resume_sends_what_the_pause_kept_back(chat: Chat) -> None:
    await chat.write("pause")
    asked = await chat.herald.ask(user(chat.person), content={"title": "Kept back"})
    await chat.herald.send()
    row = await chat.herald.row(asked, f"u:{chat.person.object_id}")
    assert (row["state"], row["rule"]) == (DeliveryState.QUEUED, Rule.PAUSED)
    assert (await chat.ask("status"))[-1] == "Held notifications  1"
    await chat.write("resume")
    await chat.herald.send()
    assert (await chat.herald.row(asked, f"u:{chat.person.object_id}"))["state"] == DeliveryState.SENT


async def test_who_is_stopped_and_paused_is_told_of_the_one_that_is_left(chat: Chat) -> None:
    await chat.prefer(Preferences(stopped=True, paused_until=FOREVER))
    assert "paused" in (await chat.ask("start"))[1]
    assert len(await chat.ask("resume")) == 1
    await chat.prefer(Preferences(stopped=True, paused_until=FOREVER))
    assert "stopped" in (await chat.ask("resume"))[1]
    assert len(await chat.ask("start")) == 1


async def test_nobody_and_nothing_that_was_written_is_in_the_log(chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for text in ("subscribe Merlin", "timezone Merlin", "merlin"):
            await chat.ask(text)
        await chat.herald.send()
    ours = [each.getMessage() for each in caplog.records if not each.name.startswith(("azure", "aiohttp"))]
    assert not any("merlin" in each.lower() or chat.person.object_id in each for each in ours)


async def test_status_tells_what_is_set_and_where_it_comes_from(chat: Chat) -> None:
    chat.herald.clock.moved = datetime(2026, 11, 23, 12, tzinfo=UTC) - datetime.now(UTC)
    assert await chat.ask("status") == [
        "Status",
        "Notifications  on",
        "Quiet hours  none",
        "Time zone  Europe/Berlin (from Teams)",
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
    await chat.prefer(preferences)
    assert await chat.ask("status") == [
        "Status",
        "Notifications  paused until Fri 01 Jan 2100, 09:00 (Asia/Tokyo)",
        "Quiet hours  sat,sun",
        "Time zone  Asia/Tokyo (chosen here)",
        "Digest  weekly mon 09:00",
        "Next digest  Fri 01 Jan 2100, 09:00 (Asia/Tokyo)",
        "Categories  Builds: off, all others: digest",
        "Topics  a, b",
        "Held notifications  none",
    ]
    await chat.prefer(replace(preferences, stopped=True))
    stopped = await chat.ask("status")
    assert stopped[1].startswith("Notifications  stopped")
    assert stopped[5] == "Categories  Builds: off, all others: digest"


async def test_status_counts_what_waits_up_to_a_bound(chat: Chat) -> None:
    now = chat.herald.clock()
    recipient = f"u:{chat.person.object_id}"
    for number in range(MAX_COUNTED + 1):
        item = HeldDelivery(
            delivery=Delivery(f"{number:032x}", "0", recipient, "", 0),
            reason=Reason.PAUSED,
            until=now,
            notification_time=now,
            eligible_since=now,
            delivery_etag="",
        )
        await chat.herald.services.held_deliveries.put(chat.herald.tenant, item)
    assert (await chat.ask("status"))[-1] == f"Held notifications  {MAX_COUNTED} or more"


async def test_an_early_digest_is_asked_for_where_something_waits(chat: Chat) -> None:
    await meet(chat)
    assert await chat.ask("digest now") == ["Nothing is waiting for a digest"]
    assert await people_tasks(chat.herald) == {}
    await chat.prefer(Preferences(categories={"builds": Mode.DIGEST}))
    await chat.herald.ask(user(chat.person))
    await chat.herald.send()
    assert await chat.ask("Digest Now.") == ["Your digest is on its way"]
    assert await people_tasks(chat.herald) == {Task.DIGEST_NOW: 1}


async def test_an_early_digest_is_asked_for_where_a_pause_holds_what_is_meant_for_it(chat: Chat) -> None:
    await chat.prefer(Preferences(categories={"builds": Mode.DIGEST}, paused_until=FOREVER))
    await chat.herald.ask(user(chat.person), category="news")
    await chat.herald.send()
    assert await chat.ask("digest now") == ["Nothing is waiting for a digest"]
    await chat.herald.ask(user(chat.person))
    await chat.herald.send()
    assert await chat.ask("digest now") == ["Your digest is on its way"]


async def test_who_asks_while_a_digest_is_on_its_way_is_told_that_it_is_without_the_newest(chat: Chat) -> None:
    await chat.herald.know(chat.person)
    await chat.prefer(Preferences(categories={"builds": Mode.DIGEST}))
    await chat.herald.ask(user(chat.person))
    await chat.herald.send()
    person = RecipientTask(chat.herald.tenant, f"u:{chat.person.object_id}", Task.DIGEST_NOW)
    await release(chat.herald.services, person)
    [first, second] = await chat.ask("digest now")
    assert first == "Your digest is on its way"
    assert "next digest" in second


async def test_preferences_opens_the_card(chat: Chat) -> None:
    await chat.prefer(Preferences(quiet="sat,sun"))
    [activity] = await chat.write("Preferences")
    told = await chat.told(activity)
    assert told
    assert told.content.card
    assert find_faults(told.content.card) == []
    inputs = {each["id"]: each.get("value") for each in told.content.card["body"] if "id" in each}
    assert inputs["quiet"] == "sat,sun"


async def test_help_shows_every_command(chat: Chat) -> None:
    for text in ("help", "", "<at>Herald</at>", "?"):
        told = await chat.ask(text)
        assert told[0] == "What you can write"
        assert [line.split()[0] for line in told[1:]] == list(Verb)


async def test_in_a_channel_a_command_is_about_the_channel_and_answered_in_its_thread(channel: Chat) -> None:
    place = channel.place
    told = await channel.ask("quiet 18:00-08:00")
    assert told == ["Quiet hours: 18:00-08:00", "Time zone  UTC (default)"]
    await channel.ask("subscribe Releases")
    assert (await in_place(channel)).quiet == "18:00-08:00"
    assert (await channel.preferences()) == Preferences()
    subscribers, _ = await channel.herald.services.topics.subscribers(channel.herald.tenant, "releases", "", 10)
    assert subscribers == [f"c:{place['channel']}"]
    await channel.herald.send()
    received = await channel.herald.teams.received()
    assert {each.conversation for each in received} == {f"{place['channel']};messageid={place['thread']}"}
    assert {each.activity["summary"] for each in received} == {"Quiet hours: 18:00-08:00", "Subscribed"}


async def test_in_a_group_chat_a_command_is_about_the_chat(group: Chat) -> None:
    await group.ask("stop")
    assert (await in_place(group)).stopped
    assert (await group.preferences()) == Preferences()
    assert "about this conversation" in (await group.ask("help"))[-1]
    [activity] = await group.write("preferences")
    assert await group.told(activity)
    await group.herald.send()
    received = await group.herald.teams.received()
    assert {each.conversation for each in received} == {group.place["chat"]}
    assert len(received) == 3


async def test_a_repeated_activity_has_one_answer_and_undoes_nothing_newer(chat: Chat) -> None:
    activity, *_ = await chat.write("pause 2h", repeat=5)
    await chat.write("resume")
    await chat.again(activity)
    assert (await chat.preferences()).paused_until is None
    await chat.herald.send()
    received = await chat.herald.teams.received(person=chat.person.object_id)
    titles = Counter(each.activity["summary"].split()[0] for each in received)
    assert titles == {"Paused": 1, "Not": 1}
    await chat.again(activity)
    await chat.herald.send()
    assert len(await chat.herald.teams.received(person=chat.person.object_id)) == 2


async def test_the_same_words_twice_are_two_commands(chat: Chat) -> None:
    for _ in range(2):
        await chat.write("help")
    await chat.herald.send()
    assert len(await chat.herald.teams.received(person=chat.person.object_id)) == 2


async def test_what_died_before_its_answer_is_answered_when_teams_repeats_it(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = chat.herald.services.deliveries.add

    async def dies(*_: object, **__: object) -> None:
        raise TimeoutError

    event = TeamsEvent(kind="message", person=chat.person.object_id, text="pause", endpoint=chat.endpoint)
    monkeypatch.setattr(chat.herald.services.deliveries, "add", dies)
    [answer] = await chat.herald.teams.send_event(event)
    assert answer.status == 503
    monkeypatch.setattr(chat.herald.services.deliveries, "add", add)
    await chat.again(answer.activity)
    await chat.herald.send()
    [told] = await chat.herald.teams.received(person=chat.person.object_id)
    assert told.activity["summary"] == "Paused"
    assert (await chat.preferences()).version == 1


EVIL = "[here](https://evil.example) **b** <at>Ada</at> ![x](https://evil.example/x.png) `c` # <b>d</b>"


async def test_what_is_echoed_is_plain_text(chat: Chat) -> None:
    for command in ("subscribe", "unsubscribe", "timezone", "quiet", "digest", "pause", "frobnicate"):
        [activity] = await chat.write(f"{command} {EVIL.replace('<', '&lt;')}")
        told = await chat.told(activity)
        assert told
        assert (card := told.content.card)
        assert not any("evil" in each["text"] for each in card["body"] if each["type"] == "TextBlock"), command
        assert "evil" not in card["fallbackText"]
        assert "<" not in " ".join(lines(card)), command


async def test_an_echo_is_cut(chat: Chat) -> None:
    told = await chat.ask("x" * 3000)
    assert len(told[1]) < 200


async def test_no_answer_to_the_submit_of_a_card_and_help_to_a_mere_attachment(chat: Chat) -> None:
    [submitted] = await chat.write("", value={"action": "save"})
    assert await chat.told(submitted) is None
    [attached] = await chat.write("", attachments=[{"contentType": "image/png", "contentUrl": "https://example.com/x"}])
    told = await chat.told(attached)
    assert told
    assert lines(told.content.card or {})[0] == "What you can write"
    assert (await chat.ask("pause", value={"from": "a suggested action"}))[0] == "Paused"


async def test_who_cannot_be_answered_is_not(chat: Chat) -> None:
    for changes in (
        {"from": {"aadObjectId": None}},
        {"from": {"aadObjectId": "not-an-object-id"}},
        {"conversation": {"conversationType": "groupChat", "id": "19:" + "x" * 600}},
        {"conversation": {"conversationType": "groupChat", "id": None}},
    ):
        await chat.write("help", **changes)
    assert await chat.herald.waiting(DELIVERIES) == 0


async def test_an_activity_without_an_id_is_answered(chat: Chat) -> None:
    for second in (1, 2):
        await chat.write("help", id=None, timestamp=f"2026-11-20T09:00:0{second}Z", repeat=2)
    await chat.herald.send()
    assert len(await chat.herald.teams.received(person=chat.person.object_id)) == 2


async def test_200_in_flight_on_two_instances_lose_nothing_of_one_row(
    chat: Chat, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = [f"topic {number}" for number in range(MAX_ENTRIES)]
    monkeypatch.setattr("messages.endpoint.DEADLINE_SECONDS", 60)  # the machine of the tests is slower than Azure
    async with opened(chat.herald.storage, chat.herald.teams, monkeypatch) as other, endpoint(other) as elsewhere:
        events = [
            TeamsEvent(kind="message", person=chat.person.object_id, text=f"{verb} {topic}", endpoint=url)
            for topic, url in zip(topics, [chat.endpoint, elsewhere] * (MAX_ENTRIES // 2), strict=True)
            for verb in ("subscribe", "unsubscribe nothing of")
        ]
        random.Random(7).shuffle(events)
        answers = await chat.herald.teams.send_events(events, concurrency=200)
    assert Counter(answer.status for answer in answers) == {200: 200}
    assert sorted((await chat.preferences()).topics) == sorted(topics)
    assert await chat.herald.waiting(DELIVERIES) == 200


#: Three of them post the answer; `status` also counts what waits.
MOST_OPERATIONS = 9


class Counting(Tap):
    def __init__(self) -> None:
        self.operations = 0

    async def before(self, written: str) -> None:
        self.operations += 1


async def test_a_command_costs_few_operations(tapped: Herald) -> None:
    async with endpoint(tapped) as url:
        chat = Chat(tapped, url, (await tapped.grow(people=1)).people[0], {})
        costs = {}
        for number, text in enumerate(
            ["help", "status", "preferences", "subscribe a", "unsubscribe a", "topics", *CHANGES]
        ):
            [activity] = await chat.write("help")
            incoming = Incoming.model_validate(activity | {"id": f"counted {number}", "text": text})
            counting = Counting()
            token = TAP.set(counting)
            await dispatch_command(tapped.services, verified.Event(incoming, tapped.tenant, tapped.clock()))
            TAP.reset(token)
            costs[text] = counting.operations
    assert max(costs.values()) <= MOST_OPERATIONS, costs
