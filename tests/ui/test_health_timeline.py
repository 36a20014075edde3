"""The health timeline: what becomes a span, what it says, and how many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.metrics.xid import ecc_event, xid_event
from dashtop.model.metric import Severity
from dashtop.model.run import RunStatus
from dashtop.model.sample import Event, Series, SeriesKey
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.charts.resolution import Window
from dashtop.ui.health_timeline import EVENT_KINDS, MAX_SPANS, METRICS, GpuHistory, build_timeline
from dashtop.ui.panels.events import KIND_TITLES
from tests.builders import NOON_MS, make_gpu
from tests.runs.builders import make_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.sample import Gpu

COUNT = 10
WINDOW = Window(NOON_MS, NOON_MS + COUNT * 10_000, 10_000)
UUID = make_gpu().device.uuid
LIMITS = {"gpu.pcie.max_generation": 4.0, "gpu.pcie.max_width": 16.0}
NAN = float("nan")


def make_history(
    values: Mapping[str, Sequence[float]],
    *,
    events: Sequence[Event] = (),
    states: Sequence[Event] = (),
    gpu: Gpu | None = None,
    window: Window = WINDOW,
) -> GpuHistory:
    """A GPU that is read all the time, unless `values` say otherwise."""
    rows = {"gpu.utilization.gpu": [0.0] * window.count, **values}
    series = {}
    for metric, row in rows.items():
        array = np.array(row, dtype=np.float32)
        series[metric] = Series(key=SeriesKey(metric, UUID), mean=array, minimum=array, maximum=array)
    return GpuHistory(label="GPU 0", name="H100", series=series, events=events, state_events=states, gpu=gpu)


def build(history: GpuHistory, *, recorded: Sequence[bool] = (True,) * COUNT, gap_text: str = "") -> dict[str, Any]:
    return build_timeline(WINDOW, [history], np.array(recorded), [], gap_text)


def spans_of(timeline: dict[str, Any], row: str) -> list[tuple[int, int, str, str, str]]:
    """Return the spans of a row of the only lane, with their texts."""
    (lane,) = timeline["lanes"]
    spans = dict(lane["rows"]).get(row, [])
    return [(first, end, kind, *timeline["texts"][text]) for first, end, kind, text in spans]


def lose(second: int, state: UnavailableReason = UnavailableReason.GPU_LOST) -> Event:
    return Event(
        time_ms=NOON_MS + second * 1000,
        kind="gpu_lost",
        severity=Severity.CRITICAL,
        text=f"GPU 0 (H100): {state.text}.",
        gpu_uuid=UUID,
        advice=state.advice,
    )


def test_a_healthy_gpu_has_one_span() -> None:
    assert spans_of(build(make_history({})), "state") == [(0, 10, "ok", "Can be read", "")]
    assert [row for row, _ in build(make_history({}))["lanes"][0]["rows"]] == ["state"]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (UnavailableReason.GPU_LOST, "lost"),
        (UnavailableReason.GPU_RESET_REQUIRED, "reset"),
        (UnavailableReason.NOT_RESPONDING, "silent"),
    ],
)
def test_missing_readings_have_the_state_that_the_event_before_them_says(state: UnavailableReason, kind: str) -> None:
    load = [50.0, 50.0, 50.0, NAN, NAN, NAN, 50.0, 50.0, 50.0, 50.0]
    back = Event(time_ms=NOON_MS + 60_500, kind="gpu_back", severity=Severity.INFO, text="back", gpu_uuid=UUID)
    timeline = build(make_history({"gpu.utilization.gpu": load}, states=[lose(31, state), back]))
    assert spans_of(timeline, "state") == [
        (0, 3, "ok", "Can be read", ""),
        (3, 6, kind, f"GPU 0 (H100): {state.text}.", state.advice),
        (6, 10, "ok", "Can be read", ""),
    ]


def test_a_loss_before_the_range_lasts() -> None:
    timeline = build(make_history({"gpu.utilization.gpu": [NAN] * COUNT}, states=[lose(-86_400)]))
    assert [span[:3] for span in spans_of(timeline, "state")] == [(0, 10, "lost")]


def test_a_loss_within_a_bucket_with_readings_is_shown() -> None:
    assert [span[:3] for span in spans_of(build(make_history({}, states=[lose(52)])), "state")] == [
        (0, 5, "ok"),
        (5, 6, "lost"),
        (6, 10, "ok"),
    ]


def test_a_driver_that_does_not_answer_silences_its_gpus() -> None:
    silent = Event(
        time_ms=NOON_MS + 50_000,
        kind="driver_silent",
        severity=Severity.CRITICAL,
        text="The driver does not respond.",
        advice="Reboot.",
    )
    load = [1.0] * 5 + [NAN] * 5
    spans = spans_of(build(make_history({"gpu.utilization.gpu": load}, states=[silent])), "state")
    assert spans[1] == (5, 10, "silent", "The driver does not respond.", "Reboot.")


def test_times_without_a_sample_are_not_recorded_and_do_not_continue_a_state() -> None:
    load = [NAN] * 4 + [1.0] * 6
    recorded = [False, False, True, True] + [True] * 6
    history = make_history({"gpu.utilization.gpu": load}, states=[lose(-10)])
    assert [span[:3] for span in spans_of(build(history, recorded=recorded), "state")] == [
        (0, 2, "gap"),
        (2, 4, "lost"),
        (4, 10, "ok"),
    ]
    silent = build(history, recorded=recorded, gap_text="The history does not answer.")
    assert spans_of(silent, "state")[0][4] == "The history does not answer."


def test_a_gpu_without_readings_and_without_an_event_has_its_present_state_at_the_end() -> None:
    load = [NAN] * 3 + [1.0] * 3 + [NAN] * 4
    gpu = make_gpu()
    lost = replace(gpu, state=UnavailableReason.GPU_RESET_REQUIRED)
    spans = spans_of(build(make_history({"gpu.utilization.gpu": load}, gpu=lost)), "state")
    assert [span[:3] for span in spans] == [(0, 3, "absent"), (3, 6, "ok"), (6, 10, "reset")]


def test_xids_are_joined_and_counted_and_the_most_severe_gives_kind_and_advice() -> None:
    events = [
        xid_event(code, time_ms=NOON_MS + second * 1000, gpu_uuid=UUID)
        for code, second in ((31, 21), (31, 22), (79, 25))
    ]
    ((first, end, kind, text, advice),) = spans_of(build(make_history({}, events=events)), "xid")
    assert (first, end, kind) == (2, 3, "xid-critical")
    assert text.startswith("The GPU has fallen off the bus (XID 79). 2 × GPU memory page fault")
    assert advice.startswith("Reboot.")


def test_alerts_have_a_row_of_their_own() -> None:
    alert = Event(
        time_ms=NOON_MS + 31_000,
        kind="alert_firing",
        severity=Severity.WARNING,
        text="GPU 0 (H100): power brake.",
        gpu_uuid=UUID,
        advice="Check cables.",
    )
    resolved = replace(alert, kind="alert_resolved", time_ms=NOON_MS + 61_000)
    timeline = build(make_history({}, events=[alert, resolved]))
    assert spans_of(timeline, "alerts") == [(3, 4, "alert-warning", alert.text, alert.advice)]


def test_ecc_errors_are_counted_in_each_bucket_and_a_reset_counter_starts_again() -> None:
    corrected = [7.0, 7.0, 9.0, 9.0, 2.0, 2.0, 2.0, NAN, 3.0, 3.0]
    uncorrected = [0.0] * 8 + [1.0, 1.0]
    timeline = build(
        make_history({"gpu.ecc.volatile_corrected": corrected, "gpu.ecc.volatile_uncorrected": uncorrected})
    )
    assert [span[:4] for span in spans_of(timeline, "ecc")] == [
        (2, 3, "ecc-corrected", "2 corrected memory errors."),
        (4, 5, "ecc-corrected", "2 corrected memory errors."),
        (8, 9, "ecc-uncorrected", "1 uncorrected memory error, 1 corrected memory error."),
    ]
    event = ecc_event(48, time_ms=NOON_MS + 15_000, gpu_uuid=UUID)
    ((*span, text, advice),) = spans_of(build(make_history({}, events=[event])), "ecc")
    assert (span, text, advice) == ([1, 2, "ecc-uncorrected"], event.text, event.advice)


def test_remapping_throttling_and_links() -> None:
    idle_then_busy = [0.0] * 5 + [90.0] * 5
    timeline = build(
        make_history(
            {
                "gpu.utilization.gpu": idle_then_busy,
                "gpu.remapped_rows.pending": [0.0, 1.0, 1.0] + [1.0] * 7,
                "gpu.remapped_rows.failure": [0.0] * 8 + [1.0, 1.0],
                "gpu.clocks.event_reasons": [1.0, 4.0, 4.0, 0x24, 0x48, 0x80, 1.0, 1.0, 1.0, NAN],
                "gpu.pcie.generation": [1.0] * 7 + [4.0] * 3,
                "gpu.pcie.width": [16.0] * 9 + [8.0],
                "gpu.nvlink.active": [18.0] * 6 + [17.0, 18.0, 18.0, 18.0],
            },
            gpu=make_gpu(values=LIMITS),
        )
    )
    assert [span[:3] for span in spans_of(timeline, "remap")] == [(1, 8, "remap-pending"), (8, 10, "remap-failed")]
    throttling = spans_of(timeline, "throttle")
    assert [span[:4] for span in throttling] == [
        (1, 3, "throttle-cap", "SW Power Cap."),
        (3, 4, "throttle-soft", "SW Thermal Slowdown."),
        (4, 6, "throttle-hard", "HW Slowdown, HW Thermal Slowdown, HW Power Brake."),
    ]
    assert [span[:4] for span in spans_of(timeline, "link")] == [
        (5, 6, "link-slow", "PCIe generation 1 x16 under load, generation 4 x16 possible."),
        (6, 7, "link-down", "1 of 18 NVLinks down."),
        (9, 10, "link-slow", "PCIe generation 4 x8 under load, generation 4 x16 possible."),
    ], "an idle link may be slow"


def test_events_of_the_host_have_a_lane_of_their_own() -> None:
    start = Event(time_ms=NOON_MS + 1, kind="restart", severity=Severity.INFO, text="dashtop started.")
    timeline = build_timeline(WINDOW, [], np.ones(COUNT, dtype=bool), [start])
    (lane,) = timeline["lanes"]
    assert (lane["label"], lane["gpu"], lane["rows"]) == ("Host", None, [["events", [[0, 1, "note-info", 0]]]])
    assert timeline["texts"] == [["dashtop started.", ""]]


def test_many_spans_are_joined_and_the_most_severe_remains() -> None:
    window = Window(NOON_MS, NOON_MS + 300_000, 1000)
    flags = [4.0 if second % 2 else 0.0 for second in range(300)]
    flags[100] = 0x40
    gpus = [make_history({"gpu.clocks.event_reasons": flags}, window=window) for _ in range(64)]
    timeline = build_timeline(window, gpus, np.ones(300, dtype=bool), [])
    counts = [len(spans) for lane in timeline["lanes"] for _, spans in lane["rows"]]
    assert 64 * 2 <= sum(counts) <= MAX_SPANS
    for lane in timeline["lanes"]:
        spans = dict(lane["rows"])["throttle"]
        assert any(kind == "throttle-hard" and first <= 100 < end for first, end, kind, _ in spans)
        assert max(end for _, end, *_ in spans) <= 300


def test_every_kind_of_event_has_a_title_and_the_metrics_exist() -> None:
    from dashtop.metrics import METRICS as ALL_METRICS
    from dashtop.model.sample import EVENT_KINDS as ALL_KINDS

    assert set(KIND_TITLES) == set(ALL_KINDS)
    assert set(EVENT_KINDS) <= set(ALL_KINDS)
    assert set(METRICS) <= set(ALL_METRICS)


def test_runs_have_a_row_and_following_ones_differ() -> None:
    runs = [
        make_run(2, begin_ms=NOON_MS + 40_000, status=RunStatus.RUNNING),
        make_run(1, begin_ms=NOON_MS - 90_000, end_ms=NOON_MS + 40_000, status=RunStatus.FAILED, user="ada"),
    ]
    history = replace(make_history({"gpu.utilization.gpu": [1.0] * 10}), runs=runs)
    assert spans_of(build(history), "runs") == [
        (0, 4, "run", "Run run 1 of ada (failed).", ""),
        (4, 10, "run-next", "Run run 2 (running).", ""),
    ]
    assert spans_of(build(replace(history, runs=())), "runs") == []
