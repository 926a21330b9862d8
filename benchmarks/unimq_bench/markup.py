"""HTML and SVG as text: everything that comes from outside goes through `shown`."""

import re
from html import escape

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What no page may hold, or what turns text around: no name may hide, or pose as another."""

_ENDING = re.compile(f"[<>&\u2028\u2029{_UNSEEN.pattern[1:]}")


def shown(text: object) -> str:
    """Return text that a browser shows as it is, in an element or in an attribute, whatever it holds."""
    return escape(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text)))


def element(name: str, inner: str = "", /, **attributes: object) -> str:
    """Return an element; `inner` is markup already, attributes are not. `class_` is `class`, `a_b` is `a-b`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{told}>{inner}</{name}>"


def _value(value: object) -> str:
    # A tenth of a pixel is enough, and keeps a page with thousands of points small.
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else shown(value)


def embedded(json: bytes) -> str:
    """Return JSON for the inside of a script element, which nothing in it can end."""
    # In JSON these stand inside strings alone, where an escape means the same.
    return _ENDING.sub(lambda found: f"\\u{ord(found[0]):04x}", json.decode("utf-8"))
