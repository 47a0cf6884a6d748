"""Send a notification to the Playground, as any upstream system would.

    python dev.py send "Build 42 failed" "Stage test failed" --to channel --action "Try again"
    python dev.py send --json message.json

It uses no code of Herald, only azure-storage-queue and the JSON format of docs/contract.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azure.core.exceptions import AzureError
from azure.storage.queue import QueueClient

QUEUE = "notifications"
#: The default ports of Azurite: blob, queue, table.
AZURITE_PORTS = [10000, 10001, 10002]
#: A REST version that Azurite supports; against Azure, the default of the client works.
API_VERSION = "2025-11-05"

#: The people and chats of the Playground, in its configuration format.
PLAYGROUND: dict[str, Any] = json.loads(Path(__file__).with_name("playground.json").read_text("utf-8"))


def bypass_proxy() -> None:
    """Make this process connect to 127.0.0.1 directly, even if the environment sets a proxy."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


#: Whom --to names. The person of the Playground is also in the group chat and in the channels.
RECIPIENTS: dict[str, dict[str, Any]] = {
    "person": {"user": PLAYGROUND["currentUser"]["aadObjectId"]},
    "group": {"conversation": PLAYGROUND["groupChat"]["id"]},
    "channel": {"channel": {"teamId": PLAYGROUND["team"]["id"], "channelId": PLAYGROUND["team"]["channels"][0]["id"]}},
}


def build_event(content: dict[str, Any], to: str = "person") -> dict[str, Any]:
    """Return a CloudEvent with a new id that requests `content` for one of `RECIPIENTS`."""
    return {
        "specversion": "1.0",
        "type": "com.example.notification.requested.v1",
        "source": "/local/send",
        "id": str(uuid.uuid4()),
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "recipients": [RECIPIENTS[to]],
            "category": "builds",
            "content": content,
        },
    }


def put_event(event: dict[str, Any], connection_string: str) -> None:
    """Put the event on the queue `notifications` of this storage account; raises `AzureError`."""
    _put(json.dumps(event), connection_string)


def _put(text: str, connection_string: str) -> None:
    with QueueClient.from_connection_string(
        connection_string, QUEUE, api_version=API_VERSION, retry_total=1, connection_timeout=2
    ) as queue:
        queue.send_message(text, time_to_live=-1)


def _build(options: argparse.Namespace) -> dict[str, Any]:
    """Return the event that the options describe."""
    actions = [{"id": title.lower(), "title": title} for title in options.action]
    event = build_event({"title": options.title, "text": options.text, "actions": actions}, options.to)
    event["data"]["category"] = options.category
    if options.at:
        event["data"]["schedule"] = {"at": options.at} | ({"timeZone": options.zone} if options.zone else {})
    return event


def _find_id(text: str) -> str:
    """Return the id of a message, or of what a command in it is about; "" if it has none."""
    try:
        value = json.loads(text)
        data = value.get("data", value)
        return str(value.get("id") or data.get("id") or data["target"]["id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _port_option(ports: list[int]) -> str:
    return "" if ports == AZURITE_PORTS else "--azurite-ports " + " ".join(map(str, ports))


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py send", description="Send a notification to the Playground.")
    parser.add_argument("title", nargs="?", help="title of the card")
    parser.add_argument("text", nargs="?", default="", help="text of the card")
    parser.add_argument("--to", choices=RECIPIENTS, default="person", help="default: person")
    parser.add_argument("--action", metavar="TITLE", action="append", default=[], help="add a button; may be repeated")
    parser.add_argument("--category", metavar="NAME", default="builds", help="default: builds")
    parser.add_argument("--at", metavar="TIME", help="deliver at this local time: 2027-03-28T02:30")
    parser.add_argument("--zone", metavar="NAME", help="time zone of --at: Europe/Berlin, or `recipient`")
    parser.add_argument(
        "--azurite-ports", type=int, nargs=3, default=AZURITE_PORTS, metavar="N", help="ports of `dev.py up`"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="put this message of docs/contract.md, such as a command, instead of a title; - is the standard input",
    )
    options = parser.parse_args()
    if (options.title is None) == (options.json is None):
        parser.error("give a title, or --json")
    if options.zone and not options.at:
        parser.error("--zone needs --at")
    bypass_proxy()
    if options.json:
        try:
            text = sys.stdin.read() if options.json == "-" else Path(options.json).read_text("utf-8")
        except OSError as error:
            parser.error(f"{options.json} cannot be read: {error.strerror}")
        identifier = _find_id(text)
    else:
        event = _build(options)
        text, identifier = json.dumps(event), str(event["id"])
    # The documented account of Azurite.
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    endpoint = f"http://127.0.0.1:{options.azurite_ports[1]}/{account}"
    try:
        _put(text, f"AccountName={account};AccountKey={key};QueueEndpoint={endpoint};")
    except AzureError as error:
        reason = str(error).splitlines()[0]
        print(f"Nothing was sent ({reason}): start `python dev.py up`, or set --azurite-ports", file=sys.stderr)
        return 1
    status = " ".join(filter(None, ["python dev.py status", identifier, _port_option(options.azurite_ports)]))
    print(f"Put on the queue {QUEUE}. What became of it: {status}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
