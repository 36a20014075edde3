"""Sanitizes text from outside (process names, mount points) for display."""

from __future__ import annotations

MAX_NAME_LENGTH = 64
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def sanitize_text(text: str | bytes, limit: int = MAX_NAME_LENGTH) -> str:
    """Return `text` with unprintable characters replaced by U+FFFD, cut to `limit` characters.

    Unprintable are control characters, line breaks, bytes that are not UTF-8, and marks that reverse the direction of
    the following text. Markup is not escaped: that is the task of the code that writes HTML.
    """
    if isinstance(text, bytes):
        # A character has at most four bytes: later bytes cannot be part of the result.
        text = text[: 4 * (limit + 1)].decode("utf-8", "replace")
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else _REPLACEMENT for character in text)
    return text if len(text) <= limit else text[: limit - 1] + _ELLIPSIS
