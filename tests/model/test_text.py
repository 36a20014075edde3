"""Text from outside is sanitized and cut."""

from __future__ import annotations

import pytest

from dashtop.model.text import sanitize_text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("python3.11", "python3.11"),
        ("", ""),
        ("größe 模型", "größe 模型"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("a\nb\tc\x00d\x1b[31m", "a\ufffdb\ufffdc\ufffdd\ufffd[31m"),
        ("exe\u202etxt.sh", "exe\ufffdtxt.sh"),
        ("half\udcff", "half\ufffd"),
        (b"python3", "python3"),
        (b"caf\xc3\xa9", "café"),
        (b"\xff\xfe\x00", "\ufffd\ufffd\ufffd"),
    ],
)
def test_unprintable_characters_are_replaced(given: str | bytes, shown: str) -> None:
    assert sanitize_text(given) == shown


@pytest.mark.parametrize("given", ["x" * 4096, b"x" * 4096, "\U0001f525" * 4096, "🔥".encode() * 4096, "\x07" * 4096])
def test_long_text_is_cut_with_an_ellipsis(given: str | bytes) -> None:
    shown = sanitize_text(given)

    assert len(shown) == 64
    assert shown.endswith("…")
    assert shown.isprintable()


@pytest.mark.parametrize("length", [63, 64])
def test_text_of_the_maximum_length_is_not_cut(length: int) -> None:
    assert sanitize_text("x" * length) == "x" * length
    assert sanitize_text("🔥".encode() * length) == "🔥" * length


def test_limit_can_be_chosen() -> None:
    assert sanitize_text("/mnt/" + "a" * 300, 256) == "/mnt/" + "a" * 250 + "…"
