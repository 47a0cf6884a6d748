"""Run one contender in this process: send messages, measure the process, and print one line of JSON.

It needs only the standard library, as it runs in two environments: the app's and the peers'.
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

from benchmarks.contenders.workload import Workload
from benchmarks.process_meters import LoopLag, resident_mb

#: The lag is measured over a further 1/LAG_DIVISOR of the messages, sent after the others.
LAG_DIVISOR = 4


async def measure(name: str, workload: Workload, in_flight: int, messages: int) -> dict[str, float]:
    """Send `in_flight` messages at once from a cold start, then `messages` with always `in_flight` at a time."""
    module = importlib.import_module(f"benchmarks.contenders.{name}")
    chats = cycle(workload.chats)
    async with module.open_sender(workload) as send:
        cold = time.perf_counter()
        await asyncio.gather(*(send(next(chats)) for _ in range(in_flight)))
        cold = time.perf_counter() - cold

        async def send_all(count: int) -> None:
            remaining = iter(range(count))

            async def worker() -> None:
                for _ in remaining:
                    await send(next(chats))

            await asyncio.gather(*(worker() for _ in range(in_flight)))

        resident, cpu, started = resident_mb(), time.process_time(), time.perf_counter()
        await send_all(messages)
        seconds, cpu, resident = time.perf_counter() - started, time.process_time() - cpu, resident_mb() - resident
        # Separately, since the lag probe takes more CPU than the messages when only one is in flight.
        lag_messages = max(in_flight, messages // LAG_DIVISOR)
        async with LoopLag() as lag:
            await send_all(lag_messages)
        return {
            "per_second": messages / seconds,
            "cpu_ms": 1000 * cpu / messages,
            "lag_ms": lag.longest_ms,
            "cold_s": cold,
            "growth_mb": resident,
            "sent": in_flight + messages + lag_messages,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("workload", type=Path)
    parser.add_argument("in_flight", type=int)
    parser.add_argument("messages", type=int)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # so that contenders that log each message are not measured for it
    workload = Workload.load(arguments.workload)
    figures = asyncio.run(measure(arguments.name, workload, arguments.in_flight, arguments.messages))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
