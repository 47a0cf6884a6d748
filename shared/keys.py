"""Keys of table rows.

Azure Table Storage refuses ``/ \\ # ?`` and control characters in a key, and more than 1 KiB ("Understanding
the Table service data model", Microsoft Learn): ids of Teams are percent-encoded where they hold one, and text of
a caller is hashed.
"""

import hashlib
import re

_REFUSED = re.compile(r"[/\\#?%\x00-\x1f\x7f-\x9f]|[^\x00-\uffff]")
#: Longest id kept readable, in characters; a longer one is hashed.
MAX_KEY_CHARS = 400


def key(identifier: str) -> str:
    """`identifier` as a key: itself where a key may hold it; otherwise encoded, always the same way."""
    encoded = _REFUSED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), identifier)
    return encoded if len(encoded) <= MAX_KEY_CHARS else "%sha256:" + digest(identifier)


def unkey(text: str) -> str:
    """The identifier that `key` encoded; it must not have been a hashed one."""
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)


def digest(*parts: str) -> str:
    """64 hex digits which differ where any of `parts` differs."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def shard(identifier: str) -> str:
    """One of 16 shards, as a hex digit, by the hash of `identifier`."""
    return hashlib.sha256(identifier.encode()).hexdigest()[0]
