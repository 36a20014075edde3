"""Deltas: a part is sent until the browser has its version, and again when it differs."""

from __future__ import annotations

from typing import Any

import pytest

from dashtop.ui.delta import DeltaEncoder, Part, Table, calculate_version

SNAPSHOT = {
    "sequence": 1,
    "values": Table(["a", "b"], [[1, 2]]),
    "devices": [{"index": 0}],
    "words": {"x": "y"},
    "error": None,
    "cores": [1, 2],
}


def test_parts_are_sent_until_the_browser_has_them_and_again_when_they_differ() -> None:
    encoder = DeltaEncoder()
    first = encoder.encode(SNAPSHOT, {})
    assert first["values"] == [[1, 2]]
    assert first["columns"] == {"values": ["a", "b"]}
    assert set(first["versions"]) == {"columns", "devices", "words"}
    second = encoder.encode(SNAPSHOT, first["versions"])
    assert second == {"sequence": 1, "values": [[1, 2]], "error": None, "cores": [1, 2], "versions": {}}
    changed = encoder.encode({**SNAPSHOT, "words": {"x": "z"}}, first["versions"])
    assert changed["words"] == {"x": "z"}
    assert "devices" not in changed
    # Neither another viewer nor another server changes what this browser has.
    assert encoder.encode(SNAPSHOT, first["versions"]) == second
    assert DeltaEncoder().encode(SNAPSHOT, first["versions"]) == second


def test_new_columns_are_sent() -> None:
    encoder = DeltaEncoder()
    versions = encoder.encode(SNAPSHOT, {})["versions"]
    fewer = encoder.encode({**SNAPSHOT, "values": Table(["a"], [[1]])}, versions)
    assert fewer["columns"] == {"values": ["a"]}


def test_a_part_with_a_known_version_is_built_only_to_be_sent() -> None:
    def build() -> Any:
        built.append("sparklines")
        return {"points": []}

    built: list[str] = []
    part = Part("sparklines", "GPU-1", build)
    assert DeltaEncoder().encode({}, {"sparklines": "GPU-0"}, [part])["sparklines"] == {"points": []}
    assert built == ["sparklines"]
    live = DeltaEncoder().encode({}, {"sparklines": "GPU-1"}, [part])
    assert "sparklines" not in live
    assert built == ["sparklines"]


@pytest.mark.parametrize(("text", "version"), [("", "00000000"), ("dashtop", "8045e85c")])
def test_versions_are_checksums(text: str, version: str) -> None:
    assert calculate_version(text) == version
