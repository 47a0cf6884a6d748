"""Apply events to the world, and build the activities that Teams posts to the app."""

from __future__ import annotations

from local.fake_teams import activities
from local.fake_teams.activities import Activity
from local.fake_teams.api import TeamsEvent
from local.fake_teams.world import Channel, FakeConversation, Person, Team, World


def apply_event(event: TeamsEvent, world: World, *, service_url: str, app_id: str) -> list[Activity]:
    """Apply the event to the world and return the activities to post, in order; raises ValueError."""
    if event.kind == "raw":
        if event.activity is None:
            raise ValueError("kind raw needs activity")
        _store_thread(event.activity, world)
        sent = [event.activity]
    else:
        conversation = _find_conversation(event, world)
        sender = _find_sender(event, conversation, world)
        bot = f"28:{app_id}"

        def build_base(kind: str, thread: str | None = None) -> Activity:
            return activities.build_base(
                kind, service_url=service_url, bot=bot, sender=sender, conversation=conversation, thread=thread
            )

        match event.kind:
            case "install" | "uninstall":
                update, roster = build_base("installationUpdate"), build_base("conversationUpdate")
                sent = _apply_installation(event, conversation, update, roster)
            case "membersAdded" | "membersRemoved":
                sent = [_apply_membership(event, conversation, world, build_base("conversationUpdate"))]
            case "teamEvent":
                sent = [_apply_team_event(event, conversation, world, build_base("conversationUpdate"))]
            case "message":
                message_id = world.new_message_id()
                thread = event.thread or (message_id if conversation.kind == "channel" else None)
                base = activities.add_client_info(build_base("message", thread), sender)
                sent = [
                    activities.build_message(
                        base,
                        conversation,
                        event.text,
                        message_id=message_id,
                        value=event.value,
                        reply_to=event.reply_to,
                    )
                ]
                _store_thread(sent[0], world)
            case "cardAction":
                base = activities.add_client_info(build_base("invoke", event.thread), sender)
                sent = [activities.build_card_action(base, event.verb or "", event.data, event.reply_to)]
            case "reaction":
                base = build_base("messageReaction", event.thread)
                sent = [activities.build_reaction(base, event.reaction, event.reply_to, removed=event.removed)]
    return [activities.merge_patch(activity, event.changes) for activity in sent]


def _find_conversation(event: TeamsEvent, world: World) -> FakeConversation:
    named = event.channel or event.team or event.chat
    if named is None:
        if event.person is None:
            raise ValueError(f"kind {event.kind} needs person, team or chat")
        named = world.get_person(event.person).conversation
    conversation = world.conversations.get(named)
    if conversation is None:
        raise ValueError(f"there is no conversation {named}: see GET /_fake/world")
    return conversation


def _find_sender(event: TeamsEvent, conversation: FakeConversation, world: World) -> Person:
    if event.person is not None:
        return world.get_person(event.person)
    if not conversation.members:
        raise ValueError(f"kind {event.kind} needs person: {conversation.id} has no members")
    return conversation.members[0]


def _apply_installation(
    event: TeamsEvent, conversation: FakeConversation, update: Activity, roster: Activity
) -> list[Activity]:
    added = event.kind == "install"
    conversation.owner.installed = added
    sent = [activities.build_installation(update, conversation, added=added)]
    # Teams sends no conversationUpdate if a person uninstalls, but sends one for a team or chat.
    if added or conversation.kind != "personal":
        bot = {"id": update["recipient"]["id"]}
        sent.append(activities.build_membership(roster, conversation, [bot], added=added))
    return sent


def _apply_membership(event: TeamsEvent, conversation: FakeConversation, world: World, base: Activity) -> Activity:
    people = [world.get_person(identity) for identity in event.people]
    if isinstance(conversation.owner, Person) or not people:
        raise ValueError(f"kind {event.kind} needs people, and team or chat")
    added = event.kind == "membersAdded"
    others = [person for person in conversation.owner.members if person not in people]
    conversation.owner.members = others + people if added else others
    accounts = [activities.build_account(person) for person in people]
    return activities.build_membership(base, conversation, accounts, added=added)


def _apply_team_event(event: TeamsEvent, conversation: FakeConversation, world: World, base: Activity) -> Activity:
    if not isinstance(conversation.owner, Team) or event.event is None:
        raise ValueError("kind teamEvent needs team and event")
    team, channel = conversation.owner, conversation.channel if event.channel else None
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
            # Members cannot post to an archived team; a bot can.
            pass
    return activities.build_team_event(base, event.event, channel)


def _change_channel(event: TeamsEvent, channel: Channel | None) -> None:
    if channel is None:
        raise ValueError(f"event {event.event} needs channel")
    if event.event == "channelRenamed":
        channel.name = event.name or channel.name
    else:
        channel.deleted = event.event == "channelDeleted"


def _store_thread(activity: Activity, world: World) -> None:
    conversation = activity.get("conversation")
    if isinstance(conversation, dict) and ";messageid=" in str(conversation.get("id")):
        world.threads.add(str(conversation["id"]))
