"""What an event does to the world, and the activities by which Teams tells the app."""

from __future__ import annotations

from local.fake_teams import activities
from local.fake_teams.activities import Activity
from local.fake_teams.api import Event
from local.fake_teams.world import Channel, Person, Place, Team, World


def happen(event: Event, world: World, *, service_url: str, app_id: str) -> list[Activity]:
    """Changes the world as the event says and returns what Teams sends, in order; raises ValueError for a bad event."""
    if event.kind == "raw":
        if event.activity is None:
            raise ValueError("kind raw needs activity")
        _remember_thread(event.activity, world)
        sent = [event.activity]
    else:
        place = _place(event, world)
        sender = _sender(event, place, world)
        bot = f"28:{app_id}"

        def envelope(kind: str, thread: str | None = None) -> Activity:
            return activities.envelope(
                kind, service_url=service_url, bot=bot, sender=sender, place=place, thread=thread
            )

        match event.kind:
            case "install" | "uninstall":
                sent = _installation(event, place, envelope("installationUpdate"), envelope("conversationUpdate"))
            case "membersAdded" | "membersRemoved":
                sent = [_membership(event, place, world, envelope("conversationUpdate"))]
            case "teamEvent":
                sent = [_team_event(event, place, world, envelope("conversationUpdate"))]
            case "message":
                message_id = world.new_message_id()
                thread = event.thread or (message_id if place.kind == "channel" else None)
                base = activities.from_client(envelope("message", thread), sender)
                sent = [
                    activities.message(
                        base,
                        place,
                        event.text,
                        message_id=message_id,
                        value=event.value,
                        reply_to=event.reply_to,
                    )
                ]
                _remember_thread(sent[0], world)
            case "cardAction":
                base = activities.from_client(envelope("invoke", event.thread), sender)
                sent = [activities.card_action(base, event.verb or "", event.data, event.reply_to)]
            case "reaction":
                base = envelope("messageReaction", event.thread)
                sent = [activities.reaction(base, event.reaction, event.reply_to, removed=event.removed)]
    return [activities.merge(activity, event.changes) for activity in sent]


def _place(event: Event, world: World) -> Place:
    named = event.channel or event.team or event.chat
    if named is None:
        if event.person is None:
            raise ValueError(f"kind {event.kind} needs person, team or chat")
        named = world.person(event.person).conversation
    place = world.places.get(named)
    if place is None:
        raise ValueError(f"there is no conversation {named}")
    return place


def _sender(event: Event, place: Place, world: World) -> Person:
    if event.person is not None:
        return world.person(event.person)
    if not place.members:
        raise ValueError(f"kind {event.kind} needs person: {place.id} has no members")
    return place.members[0]


def _installation(event: Event, place: Place, update: Activity, roster: Activity) -> list[Activity]:
    added = event.kind == "install"
    place.home.installed = added
    sent = [activities.installation(update, place, added=added)]
    # A person who uninstalls leaves no conversationUpdate behind; a team or chat does.
    if added or place.kind != "personal":
        bot = {"id": update["recipient"]["id"]}
        sent.append(activities.membership(roster, place, [bot], added=added))
    return sent


def _membership(event: Event, place: Place, world: World, base: Activity) -> Activity:
    people = [world.person(identity) for identity in event.people]
    if isinstance(place.home, Person) or not people:
        raise ValueError(f"kind {event.kind} needs people, and team or chat")
    added = event.kind == "membersAdded"
    rest = [person for person in place.home.members if person not in people]
    place.home.members = rest + people if added else rest
    return activities.membership(base, place, [activities.account(person) for person in people], added=added)


def _team_event(event: Event, place: Place, world: World, base: Activity) -> Activity:
    if not isinstance(place.home, Team) or event.event is None:
        raise ValueError("kind teamEvent needs team and event")
    team, channel = place.home, place.channel if event.channel else None
    match event.event:
        case "channelCreated":
            channel = world.add_channel(team, event.name)
        case "channelRenamed" | "channelDeleted" | "channelRestored":
            _change_channel(event, channel)
        case "teamRenamed":
            team.name = event.name or team.name
            base["channelData"]["team"]["name"] = team.name
        case "teamDeleted" | "teamHardDeleted":
            team.installed = False
        case "teamRestored":
            team.installed = True
        case "teamArchived" | "teamUnarchived":
            # An archived team can't be posted to by its members; a bot still can.
            pass
    return activities.team_event(base, event.event, channel)


def _change_channel(event: Event, channel: Channel | None) -> None:
    if channel is None:
        raise ValueError(f"event {event.event} needs channel")
    if event.event == "channelRenamed":
        channel.name = event.name or channel.name
    else:
        channel.deleted = event.event == "channelDeleted"


def _remember_thread(activity: Activity, world: World) -> None:
    conversation = activity.get("conversation")
    if isinstance(conversation, dict) and ";messageid=" in str(conversation.get("id")):
        world.threads.add(str(conversation["id"]))
