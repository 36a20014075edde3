"""Requests of browsers: each field is checked, and nothing that a browser sends is an error."""

from __future__ import annotations

import pytest

from dashtop.ui.charts.resolution import TimeSpan
from dashtop.ui.request import ViewRequest

DEFAULT = ViewRequest()


def test_a_whole_request() -> None:
    data = {"n": 4, "gpu": 3, "range": "5m", "theme": "dark", "width": 375, "interval": 0.5, "options": {"sort": "pid"}}
    versions = {"devices": "0a1b2c3d", "sparklines": "GPU-1"}
    expected = ViewRequest("3", "5m", True, 375, 0.5, options={"sort": "pid"}, versions=versions)
    assert ViewRequest.parse({**data, "versions": {**versions, "columns": 7}}) == expected


@pytest.mark.parametrize("data", [None, 7, "x", [], {}, {"gpu": "0; rm"}, {"gpu": True}, {"gpu": 1.5}, {"gpu": None}])
def test_nonsense_is_the_default(data: object) -> None:
    assert ViewRequest.parse(data) == DEFAULT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("range", "1000y"),
        ("range", ["5m"]),
        ("range", {}),
        ("gpu", "GPU-" + "0" * 99),
        ("gpu", {"0": 1}),
        ("view", True),
        ("theme", 5),
        ("width", "400"),
        ("interval", 0.0001),
        ("interval", "1"),
        ("versions", "x"),
        ("versions", {"devices": 1}),
        ("versions", {"devices": ["0a1b2c3d"]}),
        ("visible_panels", "panel-fan"),
        ("options", ["sort"]),
        ("options", {"sort": 1, "filter": "x" * 601}),
        ("options", {str(number): "x" for number in range(41)}),
    ],
)
def test_a_bad_field_is_its_default(field: str, value: object) -> None:
    assert ViewRequest.parse({field: value}) == DEFAULT


def test_a_width_is_limited() -> None:
    assert ViewRequest.parse({"width": 10**12}).width_px == 8000


@pytest.mark.parametrize(
    "zoom",
    [None, 5, [], [1], [1, 2], [5000, 1000], [-5000, 5000], [0, 10**14], [10**30, 10**30 + 5000], [0.0, 5e3], ["a", 2]],
)
def test_a_zoom_is_a_possible_time_span(zoom: object) -> None:
    assert ViewRequest.parse({"zoom": zoom}).zoom is None
    assert ViewRequest.parse({"zoom": [1000, 5000]}).zoom == TimeSpan(1000, 5000)
