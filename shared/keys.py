"""Keys of table rows.

Azure Table Storage refuses ``/ \\ # ?`` and control characters in a key, and keys of more than 1 KiB ("Understanding
the Table service data model", Microsoft Learn). Ids from Teams are percent-encoded if they contain such a character,
and texts from upstream systems are hashed.
"""

import hashlib
import re

_REFUSED = re.compile(r"[/\\#?%\x00-\x1f\x7f-\x9f]|[^\x00-\uffff]")
#: Longest encoded id that is used as a key, in characters; a longer one is hashed.
MAX_KEY_CHARS = 400


def key(identifier: str) -> str:
    """Encode `identifier` as a key; it does not change if a key may contain it."""
    encoded = _REFUSED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), identifier)
    return encoded if len(encoded) <= MAX_KEY_CHARS else "%sha256:" + hash_of(identifier)


def unkey(text: str) -> str:
    """Return the identifier that `key` encoded, unless it was hashed."""
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)


def hash_of(*parts: str) -> str:
    """Return the hash of `parts`, 64 hex digits; the same text split differently has another hash."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def shard(identifier: str) -> str:
    """Return one of 16 shards, a hex digit, by the hash of `identifier`."""
    return hashlib.sha256(identifier.encode()).hexdigest()[0]
