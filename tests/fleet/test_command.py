"""`dashtop fleet free`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.cli import main
from dashtop.fleet.command import FreeRequest, find_free
from dashtop.model.errors import FleetUnavailableError
from dashtop.model.fleet import FleetError, FleetFailure, NodeState
from dashtop.settings import options
from tests.fleet.builders import FixedFleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.fleet import FleetGpu


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for option in options().values():
        for name in option.env:
            monkeypatch.delenv(name, raising=False)
    yield
    logging.getLogger("dashtop.fleet.poller").setLevel(logging.NOTSET)


def find(fleet: FixedFleet, *, as_json: bool = False, **request: object) -> str:
    return find_free(fleet, FreeRequest(**request), lambda: 5.0, as_json=as_json)  # type: ignore[arg-type]


def change_gpus(fleet: FixedFleet, **changes: object) -> FixedFleet:
    gpus: list[FleetGpu] = [replace(gpu, **changes) for gpu in fleet.reading.gpus]  # type: ignore[arg-type]
    fleet.reading = replace(fleet.reading, gpus=tuple(gpus))
    return fleet


def test_machines_are_printed_with_the_variable_for_cuda() -> None:
    assert find(FixedFleet(), memory_gb=40) == (
        "gpu0002: 1 free (NVIDIA A100-SXM4-40GB)\n"
        "  CUDA_VISIBLE_DEVICES=GPU-00000008-0000-4000-8000-000000000008\n"
        "gpu0001: 1 free (NVIDIA H100 80GB HBM3)\n"
        "  CUDA_VISIBLE_DEVICES=GPU-00000000-0000-4000-8000-000000000000\n"
        "# gpu-down is down: the engine cannot scrape it."
    )


def test_machines_that_do_not_answer_are_named_also_if_all_are_silent() -> None:
    fleet = FixedFleet()
    down = tuple(replace(node, state=NodeState.DOWN, reason="it requires a token.") for node in fleet.reading.nodes)
    fleet.reading = replace(fleet.reading, nodes=down * 3, gpus=())
    for as_json in (False, True):
        with pytest.raises(FleetUnavailableError, match=r"No machine answers\. gpu-down is down: it .* And 7 more\.$"):
            find(fleet, as_json=as_json)
    one = FixedFleet()
    one.reading = replace(one.reading, gpus=one.reading.gpus[1:2], nodes=one.reading.nodes[:2])
    with pytest.raises(FleetUnavailableError, match=r"Of 1 GPU on 1 machine 0 are free\. gpu-down is down"):
        find(one)


def test_an_index_needs_the_order_of_the_bus() -> None:
    printed = find(change_gpus(FixedFleet(), device_id=""), name="NVIDIA GeForce RTX 4090")
    assert "\n  CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0\n" in printed
    printed = find(change_gpus(FixedFleet(), device_id="", index=None))
    assert "the exporter reports neither UUIDs nor indices" in printed


def test_json_is_that_of_the_api() -> None:
    body = json.loads(find(FixedFleet(), as_json=True))
    assert (body["age_seconds"], [node["node"] for node in body["nodes"]]) == (5.0, ["gpu0003", "gpu0002", "gpu0001"])
    assert json.loads(find(FixedFleet(), as_json=True, count=9))["nodes"] == []


def test_nothing_free_says_what_is() -> None:
    with pytest.raises(FleetUnavailableError, match=r"has 2 free GPUs with 40 GB\. Of 24 GPUs on 3 .* 3 are"):
        find(FixedFleet(), count=2, memory_gb=40)


def test_failure_is_an_error_even_if_older_values_are_known() -> None:
    fleet = FixedFleet()
    fleet.reading = replace(fleet.reading, error=FleetError(FleetFailure.TIMEOUT, "No answer."))
    with pytest.raises(FleetUnavailableError, match="No answer"):
        find(fleet)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["fleet", "free"], 2, "Name one with --fleet-url or --fleet-peers"),
        (["fleet"], 2, "the following arguments are required: view"),
        (["fleet", "free", "--count", "0"], 2, "must be a whole number from 1 to 64, not '0'"),
        (["fleet", "free", "--memory", "much"], 2, "must be a number of GB such as 40, not 'much'"),
        (["fleet", "free", "--fleet-url", "http://127.0.0.1:1"], 1, "cannot be reached"),
        (["fleet", "free", "--fleet-url", "http://x", "--fleet-cert", "/nowhere"], 2, "must be a file that exists"),
    ],
)
def test_errors(arguments: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr().err
    assert (ended.value.code, printed.count("\n")) == (status, 1)
    assert sentence in printed
