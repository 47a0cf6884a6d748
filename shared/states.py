"""The states of notifications, deliveries and schedules, and the reasons for them.

They are stored in tables, and upstream systems read them there: see `docs/contract.md`. Do not rename them.
"""

from __future__ import annotations

from enum import StrEnum


class NotificationState(StrEnum):
    ACCEPTED = "accepted"  #: stored; its recipients are not listed yet
    SCHEDULED = "scheduled"  #: stored; not due yet
    EXPANDING = "expanding"  #: its recipients are being listed, page by page
    EXPANDED = "expanded"  #: every recipient has a delivery
    SKIPPED = "skipped"  #: its time had passed, and `ifPast` is `skip`
    MISSED = "missed"  #: no worker ran when it was due, and now it is too late
    CANCELLED = "cancelled"  #: deliveries that are not sent yet will not be sent
    FAILED = "failed"  #: its recipients could not be listed; see the dead letters
    FINISHED = "finished"  #: every delivery has its final state


#: The name under which deliveries without a final state are counted.
OPEN = "open"


class DeliveryState(StrEnum):
    QUEUED = "queued"  #: to be sent, now or later
    SENDING = "sending"  #: a worker has claimed it, and is sending it
    SENT = "sent"  #: Teams accepted the message; whether it was read is unknown
    SIMULATED = "simulated"  #: everything was done except the request to Teams
    SUPPRESSED = "suppressed"  #: the recipient cannot be reached, or does not want it; see the reason
    EXPIRED = "expired"  #: it expired before it could be sent
    FAILED = "failed"  #: given up; see the reason
    UNKNOWN = "unknown"  #: it may have arrived, and `onUnknown` is `stop`
    CANCELLED = "cancelled"  #: its notification was cancelled before it was sent
    RECALLED = "recalled"  #: it was sent, and the message was deleted
    SUPERSEDED = "superseded"  #: a newer event of its thread was sent before
    DIGESTED = "digested"  #: it was included in a digest, which was sent
    MISSED = "missed"  #: no worker ran when it was due in the recipient's zone, and now it is too late

    @property
    def final(self) -> bool:
        return self not in (DeliveryState.QUEUED, DeliveryState.SENDING)

    @property
    def count_name(self) -> str:
        """The name under which it is counted: the state if it is final, else `open`."""
        return str(self) if self.final else OPEN


class Reason(StrEnum):
    """The reason for the result of a request to Teams or Graph, or for the state of a delivery."""

    NOT_INSTALLED = "notInstalled"  #: the bot is not, or no longer, installed there
    BLOCKED = "blocked"  #: the person blocked the bot
    DISABLED_BY_ADMIN = "disabledByAdmin"  #: an administrator of the tenant disabled the bot
    NOT_PERSONAL_SCOPE = "notPersonalScope"  #: the app is not installed for the person, or has no personal scope
    NOT_PERMITTED = "notPermitted"  #: Teams refused it for another reason
    WRONG_CLOUD = "wrongCloud"  #: the bot belongs to another Microsoft cloud
    CONVERSATION_GONE = "conversationGone"  #: the conversation no longer exists
    BAD_REQUEST = "badRequest"  #: Teams does not accept this activity
    TOO_BIG = "tooBig"  #: the activity is larger than Teams accepts
    SERVICE_ERROR = "serviceError"  #: Teams failed, and says that a retry is useless
    UNAUTHORIZED = "unauthorized"  #: Teams does not accept the bot's token: check the app id and its secret
    NO_TOKEN = "noToken"  #: the token service returned no token  # noqa: S105
    THROTTLED = "throttled"  #: too many requests; Teams said when to continue
    PACED = "paced"  #: its slot in the rate lane of the tenant or conversation is too far away
    PRECONDITION = "precondition"  #: Teams was changing the conversation at that moment
    UNREACHABLE = "unreachable"  #: the request was not sent: no connection to Teams
    NO_ANSWER = "noAnswer"  #: the request was sent, and there was no usable answer
    POISON = "poison"  #: the app's own code failed on it each time; see the dead letters
    CRASHED = "crashed"  #: a worker died while sending it
    HOST_NOT_ALLOWED = "hostNotAllowed"  #: the stored serviceUrl is not a host of Teams
    EXHAUSTED = "exhausted"  #: still not accepted one day after the first attempt
    OWN_ACTION = "ownAction"  #: the recipient triggered the event
    OPTED_OUT = "optedOut"  #: the recipient does not want this category
    WELCOMED = "welcomed"  #: the recipient was welcomed before
    PAUSED = "paused"  #: held until the recipient's pause ends
    MUTED = "muted"  #: held until the recipient's mute of the thread ends
    QUIET_HOURS = "quietHours"  #: held until the recipient's quiet hours end
    DIGEST = "digest"  #: held for the recipient's next digest
    LOCAL_TIME = "localTime"  #: held until its time in the recipient's zone
    GRAPH_PERMISSION_MISSING = "graphPermissionMissing"  #: Graph refused it: the log names the permission to grant
    APP_NOT_IN_CATALOGUE = "appNotInCatalogue"  #: the tenant's app catalogue does not have the app
    BLOCKED_BY_POLICY = "blockedByPolicy"  #: a policy of the tenant forbids it, such as the install of the app
    UNKNOWN_PERSON = "unknownPerson"  #: Graph knows nobody of this id or name, or nobody of them in Teams
    UNKNOWN_GROUP = "unknownGroup"  #: Graph knows no group or team of this id
    ACCOUNT_DISABLED = "accountDisabled"  #: the person's account is disabled
    GUEST = "guest"  #: the person is a guest of the organisation
    NOT_READABLE = "notReadable"  #: Graph listed the person without saying who it is
    LIST_EXPIRED = "listExpired"  #: the cursor of a list has expired: list again from the start
    PAST = "past"  #: its time had passed in the recipient's zone, and `ifPast` is `skip`


class Rule(StrEnum):
    """The rule that decided on a delivery when it was to be sent, in the order in which the rules are applied."""

    CANCELLED = "cancelled"  #: its notification was cancelled
    EXPIRED = "expired"
    LOCAL_TIME = "localTime"  #: it is too early or too late in the recipient's zone
    UNREACHABLE = "unreachable"  #: the bot is not installed, or blocked
    ASKED = "asked"  #: the recipient chose to receive this message now: a reply, a digest, a snoozed message
    WELCOMED = "welcomed"  #: nobody is welcomed twice
    OWN_ACTION = "ownAction"
    OPTED_OUT = "optedOut"
    PAUSED = "paused"
    MUTED = "muted"
    QUIET_HOURS = "quietHours"
    DIGEST = "digest"
    SEND = "send"  #: no other rule applied


class ScheduleState(StrEnum):
    """The state of a recurring announcement."""

    ACTIVE = "active"  #: its next occurrence is not due yet
    PAUSED = "paused"  #: nothing is announced until it is resumed
    ENDED = "ended"  #: it has no more occurrences
    DELETED = "deleted"


class Purpose(StrEnum):
    """The purpose of a notification."""

    NOTIFICATION = "notification"  #: an upstream system sent it
    WELCOME = "welcome"  #: it explains why the bot was installed
    REPLY = "reply"  #: it replies to a command or a click
    SNOOZE = "snooze"  #: a person asked for it with a button: a snoozed message, or a sample
    DIGEST = "digest"  #: it includes held deliveries; its recipient's pause or quiet hours hold it again
    DIGEST_NOW = "digestNow"  #: the same, but its recipient asked for it: sent in a pause and in quiet hours
    EXEMPT_DIGEST = "exemptDigest"  #: the same with an item that is mandatory or bypasses quiet hours: always sent


#: The purposes of digests.
DIGESTS = (Purpose.DIGEST, Purpose.DIGEST_NOW, Purpose.EXEMPT_DIGEST)


class SettingsError(Exception):
    """A setting is missing or contradicts another; the text is one line for the operator."""


class Mode(StrEnum):
    """How a category is delivered."""

    IMMEDIATE = "immediate"
    DIGEST = "digest"
    OFF = "off"


class ReferenceKind(StrEnum):
    USER = "user"
    CONVERSATION = "conversation"
    TEAM = "team"
    TENANT = "tenant"


class ReferenceStatus(StrEnum):
    ACTIVE = "active"
    UNINSTALLED = "uninstalled"
    BLOCKED = "blocked"
    DELETED = "deleted"
