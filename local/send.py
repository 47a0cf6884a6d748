"""Puts a notification for the person of the Playground on the queue, as any upstream system would.

    python local/send.py "Hello"

It needs nothing of Herald: azure-storage-queue, and JSON in the form of docs/contract.md.
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
#: The REST version that Azurite knows too; against Azure the client's own will do.
API_VERSION = "2025-11-05"

#: The people and chats of the Playground, in the form that it reads.
PLAYGROUND: dict[str, Any] = json.loads(Path(__file__).with_name("playground.json").read_text("utf-8"))


def use_no_proxy() -> None:
    """Let this process reach 127.0.0.1 directly, whatever proxy the environment names."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def event(content: dict[str, Any]) -> dict[str, Any]:
    """A CloudEvent with a new id that asks to send `content` to the person of the Playground."""
    return {
        "specversion": "1.0",
        "type": "com.example.notification.requested.v1",
        "source": "/local/send",
        "id": str(uuid.uuid4()),
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "recipients": [{"user": PLAYGROUND["currentUser"]["aadObjectId"]}],
            "category": "builds",
            "content": content,
        },
    }


def put(message: dict[str, Any], connection_string: str) -> None:
    """Put it on the queue of this storage account; raises `AzureError`."""
    with QueueClient.from_connection_string(
        connection_string, QUEUE, api_version=API_VERSION, retry_total=1, connection_timeout=2
    ) as queue:
        queue.send_message(json.dumps(message), time_to_live=-1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="send.py", description="Send a notification to the person of the Playground.")
    parser.add_argument("title", help="what the card says first")
    parser.add_argument("text", nargs="?", default="", help="what it says below")
    parser.add_argument("--at", metavar="TIME", help="when clocks on the wall show this: 2027-03-28T02:30")
    parser.add_argument("--zone", metavar="NAME", help="in this zone: Europe/Berlin, or `recipient`")
    parser.add_argument(
        "--queue-port", type=int, default=10001, metavar="N", help="the port of Azurite's queues (default: 10001)"
    )
    options = parser.parse_args()
    if options.zone and not options.at:
        parser.error("--zone goes with --at")
    use_no_proxy()
    message = event({"title": options.title, "text": options.text})
    if options.at:
        message["data"]["schedule"] = {"at": options.at} | ({"timeZone": options.zone} if options.zone else {})
    # As documented for every Azurite.
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    endpoint = f"http://127.0.0.1:{options.queue_port}/{account}"
    try:
        put(message, f"AccountName={account};AccountKey={key};QueueEndpoint={endpoint};")
    except AzureError as error:
        reason = str(error).splitlines()[0]
        print(f"Nothing was sent: is `python dev.py up` running? ({reason})", file=sys.stderr)
        return 1
    print(f"On the queue {QUEUE}: {message['id']} (what is refused is told in table HeraldDeadLetters, and in the log)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
