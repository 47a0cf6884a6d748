"""Read the body of an HTTP answer up to a limit, so that no answer can fill the memory."""

from __future__ import annotations

import aiohttp


async def read_limited(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Return the body, decompressed; None if it has more than `max_bytes`, and then close the connection.

    Raises what `ClientResponse.read` raises. aiohttp decompresses in steps, and only what is read: a small body that
    would decompress to a very large one ends here, too.
    """
    parts, size = [], 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > max_bytes:
            answer.close()
            return None
        parts.append(part)
    return b"".join(parts)
