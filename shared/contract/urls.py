"""Check the URLs of links and images: Teams opens them for people, so they must be what they look like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

#: Schemes of web pages, and of pictures, which Teams loads only over https ("Types of cards", Microsoft Learn).
WEB_SCHEMES = ("https", "http")
IMAGE_SCHEMES = ("https",)
#: Schemes of the links of a card: also mail, calls and Teams itself. None of them runs a script or opens a file.
LINK_SCHEMES = (*WEB_SCHEMES, "mailto", "tel", "sip", "msteams")

#: White space, control and invisible characters, and those that end a URL in a text or that clients read as a slash
#: (RFC 3986, appendix C). Others that should be encoded, such as braces, mean the same to all clients.
_FORBIDDEN = re.compile(r"""[\s\x00-\x20\x7f-\x9f\u200b\u2060\ufeff"<>\\]""")


def find_url_fault(url: str, schemes: Sequence[str] = WEB_SCHEMES) -> str:
    """Return what is wrong with a URL that must have one of these schemes, "" if nothing is."""
    if _FORBIDDEN.search(url):
        return "must be a URL without spaces, line breaks and control characters: encode them, a space as %20"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # brackets or a port that cannot be read
        return "must be a URL with a valid host"
    if parts.scheme not in schemes or (parts.scheme in WEB_SCHEMES and not host):
        names = [f"{scheme}://" if scheme in WEB_SCHEMES else f"{scheme}:" for scheme in schemes]
        return "must be a URL that begins with " + " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return ""
