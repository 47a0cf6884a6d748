"""One way of sending, alone in its process: sends, measures itself, and prints one line of JSON.

Standard library alone, as it runs in two environments: that of the app, and that of the peers.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import sys
import time
from itertools import cycle
from pathlib import Path

from benchmarks.contenders.world import World
from benchmarks.meters import Lag, resident_mb

#: The lag is measured over this part of the messages, sent after the others.
LAG_SHARE = 4


async def measure(name: str, world: World, in_flight: int, messages: int) -> dict[str, float]:
    """Send `messages`, always `in_flight` at a time, after as many at once from cold."""
    module = importlib.import_module(f"benchmarks.contenders.{name}")
    chats = cycle(world.chats)
    async with module.sender(world) as send:
        cold = time.perf_counter()
        await asyncio.gather(*(send(next(chats)) for _ in range(in_flight)))
        cold = time.perf_counter() - cold

        async def send_all(count: int) -> None:
            left = iter(range(count))

            async def worker() -> None:
                for _ in left:
                    await send(next(chats))

            await asyncio.gather(*(worker() for _ in range(in_flight)))

        resident, cpu, begun = resident_mb(), time.process_time(), time.perf_counter()
        await send_all(messages)
        seconds, cpu, resident = time.perf_counter() - begun, time.process_time() - cpu, resident_mb() - resident
        # On its own: at one in flight, the heart takes more CPU than the messages.
        listened = max(in_flight, messages // LAG_SHARE)
        async with Lag() as lag:
            await send_all(listened)
        return {
            "per_second": messages / seconds,
            "cpu_ms": 1000 * cpu / messages,
            "lag_ms": lag.longest_ms,
            "cold_s": cold,
            "growth_mb": resident,
            "sent": in_flight + messages + listened,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("world", type=Path)
    parser.add_argument("in_flight", type=int)
    parser.add_argument("messages", type=int)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # whoever logs each message is not measured for it
    world = World.load(given.world)
    figures = asyncio.run(measure(given.name, world, given.in_flight, given.messages))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
