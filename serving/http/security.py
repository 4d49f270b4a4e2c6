"""What every answer tells browsers, and whose pages may read it: security headers, CORS, hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that does not say otherwise: nothing in it is a page, and no page may frame it."""

_METHODS = "GET, HEAD, POST, OPTIONS"
_ASKED = "Authorization, Content-Type, X-API-Key, X-Deadline-Ms, X-Priority, X-Request-ID"
_SHOWN = "X-Request-ID, Retry-After"


def cors_headers(origin: str | None, allowed: Sequence[str]) -> dict[str, str]:
    """What lets pages of an origin read an answer.

    Args:
        origin: that the browser names.
        allowed: origins; ``*`` for any.

    >>> cors_headers("https://a.example", ["https://a.example"])["access-control-allow-origin"]
    'https://a.example'
    >>> cors_headers("https://b.example", ["https://a.example"])
    {'vary': 'Origin'}
    """
    if not allowed:
        return {}
    if "*" in allowed:
        return {} if origin is None else {"access-control-allow-origin": "*", "access-control-expose-headers": _SHOWN}
    if origin not in allowed:
        return {"vary": "Origin"}
    return {"vary": "Origin", "access-control-allow-origin": str(origin), "access-control-expose-headers": _SHOWN}


def preflight_headers() -> dict[str, str]:
    """What a browser may send from an allowed origin, beside :func:`cors_headers`."""
    return {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _ASKED,
        "access-control-max-age": "600",
    }


def host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Whether a request may be addressed to a host.

    >>> host_allowed("a.example.org:3000", ["*.example.org"]), host_allowed("[::1]:3000", ["::1"]), host_allowed("b", ["a"])
    (True, True, False)
    """
    name = host.lower().strip()
    name = name[1:].split("]")[0] if name.startswith("[") else name.rsplit(":", 1)[0] if name.count(":") == 1 else name
    for pattern in allowed:
        pattern = pattern.lower()
        if pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:])):
            return True
    return False
