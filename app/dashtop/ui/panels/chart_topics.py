"""The charts of the chosen GPU, one row each, by the question that they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.ui import ids

if TYPE_CHECKING:
    from collections.abc import Mapping

VRAM, VRAM_TOTAL = "gpu.memory.used_gb", "gpu.memory.total_gb"
RAM, RAM_TOTAL = "system.memory.used_gb", "system.memory.total_gb"
TEMPERATURE: Final = "gpu.temperature"


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A chart of the page: the question it answers, and its lines by metric.

    `host_lines` replace the lines where there is no GPU. `limit`: the metric of the value that is the most possible,
    and its name in the chart.
    """

    id: str
    title: str
    lines: Mapping[str, str]
    question: str = ""
    host_lines: Mapping[str, str] | None = None
    limit: str = ""
    limit_name: str = "limit"

    @property
    def needs_gpu(self) -> bool:
        """Whether the chart has nothing to show without a GPU."""
        return self.host_lines is None and self.is_of_gpu

    @property
    def is_of_gpu(self) -> bool:
        """Whether the chart shows the chosen GPU, where there is one."""
        return any(key.startswith("gpu.") for key in self.lines)


TOPICS: Final = (
    Topic(
        id=ids.CHART_UTILIZATION,
        title="Utilization",
        question="Busy?",
        lines={
            "gpu.utilization.gpu": "GPU",
            "gpu.utilization.compute": "SM",
            "gpu.utilization.tensor": "Tensor",
            "gpu.utilization.dram": "DRAM",
        },
        host_lines={"system.cpu.usage_percent": "CPU"},
    ),
    Topic(
        id=ids.CHART_CPU,
        title="CPU",
        question="Fed?",
        lines={"system.cpu.usage_percent": "CPU"},
    ),
    Topic(
        id=ids.CHART_PCIE,
        title="PCIe",
        question="Fed?",
        lines={"gpu.pcie.rx_mbps": "RX", "gpu.pcie.tx_mbps": "TX"},
        limit="gpu.pcie.bandwidth_gbps",
        limit_name="link",
    ),
    Topic(
        id=ids.CHART_NVLINK,
        title="NVLink",
        question="Fed?",
        lines={"gpu.nvlink.rx_mbps": "RX", "gpu.nvlink.tx_mbps": "TX"},
    ),
    Topic(
        id=ids.CHART_DISK,
        title="Disk",
        question="Fed?",
        lines={"system.disk_io.read_mbps": "Read", "system.disk_io.write_mbps": "Written"},
    ),
    Topic(
        id=ids.CHART_CLOCK,
        title="Clock and throttle reasons",
        question="Throttled?",
        lines={"gpu.clocks.gpu_mhz": "GPU"},
        limit="gpu.clocks.gpu_max_mhz",
        limit_name="max",
    ),
    Topic(
        id=ids.CHART_TEMPERATURE,
        title="Temperature",
        question="Throttled?",
        lines={TEMPERATURE: "GPU", "gpu.memory_temperature": "Memory"},
    ),
    Topic(
        id=ids.CHART_POWER,
        title="Power",
        question="Throttled?",
        lines={"gpu.power.current_watts": "GPU"},
        limit="gpu.power.max_watts",
    ),
    Topic(
        id=ids.CHART_PROCESSES,
        title="GPU memory by process",
        question="Memory",
        lines={VRAM: "VRAM"},
    ),
    Topic(
        id=ids.CHART_MEMORY,
        title="Memory in use",
        question="Memory",
        lines={VRAM: "VRAM"},
        host_lines={RAM: "RAM"},
    ),
    Topic(
        id=ids.CHART_RAM,
        title="Host memory",
        question="Memory",
        lines={RAM: "RAM"},
    ),
)
