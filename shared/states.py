"""The states of notifications, deliveries and schedules, and the reasons for them.

They are stored in tables, shown to upstream systems and described in `docs/contract.md`; none is ever renamed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class NotificationState(StrEnum):
    ACCEPTED = "accepted"  #: stored; its recipients are not listed yet
    SCHEDULED = "scheduled"  #: stored; waits for its time
    EXPANDING = "expanding"  #: its recipients are being listed, page by page
    EXPANDED = "expanded"  #: every recipient has a delivery
    SKIPPED = "skipped"  #: its time had passed, and it asked not to be sent then
    MISSED = "missed"  #: nothing ran at its time, nor until it was too late to send it
    CANCELLED = "cancelled"  #: called off: what was not sent yet is not sent any more
    FAILED = "failed"  #: its recipients could not be listed; see the dead letters
    FINISHED = "finished"  #: every delivery has its final state


#: What those deliveries are counted as that have no final state.
OPEN = "open"


class DeliveryState(StrEnum):
    QUEUED = "queued"  #: to be sent, now or at a later try
    SENDING = "sending"  #: a process has claimed it, and sends it
    SENT = "sent"  #: Teams accepted it; that it was read is not known
    SIMULATED = "simulated"  #: all was done but the request to Teams
    SUPPRESSED = "suppressed"  #: cannot or must not reach this recipient; see the reason
    EXPIRED = "expired"  #: its expiry came before it could be sent
    FAILED = "failed"  #: given up; see the reason
    UNKNOWN = "unknown"  #: it may have arrived, and was asked not to be sent twice
    CANCELLED = "cancelled"  #: its notification was called off before it was sent
    RECALLED = "recalled"  #: it was sent, and taken back
    SUPERSEDED = "superseded"  #: something newer in its thread had been sent before
    DIGESTED = "digested"  #: it was told in a digest, which was sent
    MISSED = "missed"  #: nothing ran at its time in the recipient's zone, nor until it was too late to send it

    @property
    def final(self) -> bool:
        return self not in (DeliveryState.QUEUED, DeliveryState.SENDING)

    @property
    def counted(self) -> str:
        """The name under which it is counted: its own once it is final, else `open`."""
        return str(self) if self.final else OPEN


class Reason(StrEnum):
    """Why a request to Teams, or a delivery, ended as it did."""

    NOT_INSTALLED = "notInstalled"  #: the bot is not, or no longer, installed there
    BLOCKED = "blocked"  #: the person blocked the bot
    DISABLED_BY_ADMIN = "disabledByAdmin"  #: the tenant's administrator switched the bot off
    NOT_PERSONAL_SCOPE = "notPersonalScope"  #: the app cannot be used in personal chats
    NOT_PERMITTED = "notPermitted"  #: Teams refused it for another reason
    WRONG_CLOUD = "wrongCloud"  #: the bot belongs to another Microsoft cloud
    CONVERSATION_GONE = "conversationGone"  #: the conversation does not exist any more
    BAD_REQUEST = "badRequest"  #: Teams does not take this activity
    TOO_BIG = "tooBig"  #: larger than Teams takes
    SERVICE_ERROR = "serviceError"  #: Teams failed, and says that a retry is of no use
    UNAUTHORIZED = "unauthorized"  #: Teams refuses our token: check the app id and its secret
    NO_TOKEN = "noToken"  #: the token service gave us no token  # noqa: S105
    THROTTLED = "throttled"  #: too many requests; Teams said when to go on
    PACED = "paced"  #: its turn in the lane of the tenant or of the conversation is further away
    PRECONDITION = "precondition"  #: Teams was changing the conversation at that moment
    UNREACHABLE = "unreachable"  #: the request did not leave: no connection to Teams
    NO_ANSWER = "noAnswer"  #: the request left, and no usable answer came back
    POISON = "poison"  #: our own code failed on it again and again; see the dead letters
    CRASHED = "crashed"  #: a process died while it was sending
    HOST_NOT_ALLOWED = "hostNotAllowed"  #: the stored serviceUrl is no host of Teams
    EXHAUSTED = "exhausted"  #: still not accepted a day after the first try
    OWN_ACTION = "ownAction"  #: the recipient set it off
    OPTED_OUT = "optedOut"  #: the recipient does not want this category
    WELCOMED = "welcomed"  #: the recipient was welcomed before
    PAUSED = "paused"  #: waits until the recipient's pause is over
    MUTED = "muted"  #: waits until the recipient's mute of its thread is over
    QUIET_HOURS = "quietHours"  #: waits until the recipient's quiet hours are over
    DIGEST = "digest"  #: waits for the recipient's next digest
    LOCAL_TIME = "localTime"  #: waits for its time in the recipient's own zone
    PAST = "past"  #: its time had passed in the recipient's zone, and it asked not to be sent then


class Rule(StrEnum):
    """What decided about a delivery at the moment of sending, in the order in which the rules are asked."""

    CANCELLED = "cancelled"  #: its notification was called off
    EXPIRED = "expired"
    LOCAL_TIME = "localTime"  #: it is not, or no longer, the time for it in the recipient's zone
    UNREACHABLE = "unreachable"  #: the bot is not there, or blocked
    ASKED = "asked"  #: the recipient asked for this very message: an answer, a digest, one that was snoozed
    WELCOMED = "welcomed"  #: nobody is welcomed twice
    OWN_ACTION = "ownAction"
    OPTED_OUT = "optedOut"
    PAUSED = "paused"
    MUTED = "muted"
    QUIET_HOURS = "quietHours"
    DIGEST = "digest"
    SEND = "send"  #: nothing stood against it


class ScheduleState(StrEnum):
    """How far a recurring announcement is."""

    ACTIVE = "active"  #: its next occurrence waits for its time
    PAUSED = "paused"  #: nothing is announced until it is resumed
    ENDED = "ended"  #: it has no more occurrences
    DELETED = "deleted"  #: it was taken away


class Purpose(StrEnum):
    """What a notification is for."""

    NOTIFICATION = "notification"  #: upstream asked for it
    WELCOME = "welcome"  #: it says why the bot came
    REPLY = "reply"  #: it answers somebody's command, or click
    SNOOZE = "snooze"  #: somebody asked for it by a button: to see it again at this time, or a sample
    DIGEST = "digest"  #: it includes held deliveries; held again by its reader's pause or quiet hours
    DIGEST_NOW = "digestNow"  #: the same, but sent in a pause and in quiet hours


#: The purposes of digests.
DIGESTS = (Purpose.DIGEST, Purpose.DIGEST_NOW)


class SettingsError(Exception):
    """A setting is missing or contradicts another; the text is one line for the operator."""


class Mode(StrEnum):
    """How one is told of a category."""

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
