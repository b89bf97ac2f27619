"""Hostile text as plain text: escaped, and what cannot be seen or would turn the line around shown as a labelled mark.

The page shows a long text in pieces of `PIECE` characters; the rest comes when it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from markupsafe import Markup, escape

PIECE = 20_000
"""Characters of a text that a page shows at once."""
_MARKS = 2_000
"""Marks in one piece that are elements; those after them are plain text, so that a page of them stays light."""
_NAMES = {
    "\u00ad": "soft hyphen",
    "\u061c": "Arabic letter mark",
    "\u180e": "Mongolian vowel separator",
    "\u200b": "zero-width space",
    "\u200c": "zero-width non-joiner",
    "\u200d": "zero-width joiner",
    "\u200e": "left-to-right mark",
    "\u200f": "right-to-left mark",
    "\u202a": "left-to-right embedding",
    "\u202b": "right-to-left embedding",
    "\u202c": "end of embedding",
    "\u202d": "left-to-right override",
    "\u202e": "right-to-left override",
    "\u2060": "word joiner",
    "\u2066": "left-to-right isolate",
    "\u2067": "right-to-left isolate",
    "\u2068": "first strong isolate",
    "\u2069": "end of isolate",
    "\ufeff": "zero-width no-break space",
}
_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]+"
)


def plain(text: str) -> Markup:
    """HTML that shows a text as it is and does nothing else; a lone surrogate is a mark too."""
    return Markup(_UNSEEN.sub(_marker(), str(escape(text))))


def pieces(text: str, at: int = 0) -> tuple[str, int]:
    """The piece of a text that begins at a character, and where the next begins; the length of the text at its end.

    It ends after a line where there is one in its second half.
    """
    end = min(at + PIECE, len(text))
    if end < len(text):
        line = text.rfind("\n", at + PIECE // 2, end)
        end = line + 1 if line >= 0 else end
    return text[at:end], end


def _marker() -> Callable[[re.Match[str]], str]:
    made = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal made
        made += 1
        run = found.group()
        kinds = sorted(set(run))
        label = " ".join(f"U+{ord(c):04X}" for c in kinds[:3]) + (" ..." if len(kinds) > 3 else "")
        label += f" x{len(run)}" if len(run) > 1 else ""
        if made > _MARKS:
            return f"[{label}]"
        told = ", ".join(_NAMES.get(c, "invisible character") for c in kinds[:3])
        return f'<span class="mark" title="{told}">{label}</span>'

    return mark
