"""Makes text from outside (process names, mount points) fit to be shown."""

from __future__ import annotations

NAME_LENGTH = 64
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def sanitize_text(text: str | bytes, limit: int = NAME_LENGTH) -> str:
    """Return `text` with every character that cannot be seen replaced by U+FFFD, at most `limit` characters long.

    Unseen are control characters, line breaks, bytes that are not UTF-8, and the marks that reverse the direction of
    what follows. Markup is kept as it is: it is text, and escaping it belongs to whoever writes HTML.
    """
    if isinstance(text, bytes):
        # A character takes at most four bytes: what lies beyond cannot be part of the answer.
        text = text[: 4 * (limit + 1)].decode("utf-8", "replace")
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else _REPLACEMENT for character in text)
    return text if len(text) <= limit else text[: limit - 1] + _ELLIPSIS
