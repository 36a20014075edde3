"""The simulated cards: what kinds there are, and what each one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dashtop.sources.demo_load import Load, Noise, idle, inference, overheating, training

if TYPE_CHECKING:
    from collections.abc import Callable

HOPPER = "9.0"


class Clocks(NamedTuple):
    """MHz."""

    gpu: float
    memory: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A card as its driver describes it: `clocks` and `resting` in MHz (graphics, memory), `rise` in °C at full load.

    Memory, clocks, limits and thresholds are what nvidia-smi reports of these cards, power limits NVIDIA's defaults.
    `rise` is a plausible cooler.
    """

    name: str
    memory_mib: int
    watts: float
    idle_watts: float
    clocks: Clocks
    resting: Clocks
    capability: str
    pcie_generation: int
    rise: float
    fan: bool
    slowdown: float | None
    shutdown: float | None


_RTX_4090 = Model(
    name="NVIDIA GeForce RTX 4090",
    memory_mib=24564,
    watts=450.0,
    idle_watts=17.0,
    clocks=Clocks(3105, 10501),
    resting=Clocks(210, 405),
    capability="8.9",
    pcie_generation=4,
    rise=42.0,
    fan=True,
    slowdown=97.0,
    shutdown=100.0,
)
_RTX_3090 = Model(
    name="NVIDIA GeForce RTX 3090",
    memory_mib=24576,
    watts=350.0,
    idle_watts=21.0,
    clocks=Clocks(2100, 9751),
    resting=Clocks(210, 405),
    capability="8.6",
    pcie_generation=4,
    rise=52.0,
    fan=True,
    slowdown=95.0,
    shutdown=98.0,
)
_H100 = Model(
    name="NVIDIA H100 80GB HBM3",
    memory_mib=81559,
    watts=700.0,
    idle_watts=70.0,
    clocks=Clocks(1980, 2619),
    resting=Clocks(345, 2619),
    capability=HOPPER,
    pcie_generation=5,
    rise=40.0,
    fan=False,
    slowdown=89.0,
    shutdown=95.0,
)
_A100 = Model(
    name="NVIDIA A100-SXM4-80GB",
    memory_mib=81920,
    watts=400.0,
    idle_watts=58.0,
    clocks=Clocks(1410, 1593),
    resting=Clocks(210, 1593),
    capability="8.0",
    pcie_generation=4,
    rise=36.0,
    fan=False,
    slowdown=89.0,
    shutdown=92.0,
)
_T4 = Model(
    name="Tesla T4",
    memory_mib=15360,
    watts=70.0,
    idle_watts=9.0,
    clocks=Clocks(1590, 5001),
    resting=Clocks(300, 405),
    capability="7.5",
    pcie_generation=3,
    rise=50.0,
    fan=False,
    slowdown=93.0,
    shutdown=96.0,
)
_L4 = Model(
    name="NVIDIA L4",
    memory_mib=23034,
    watts=72.0,
    idle_watts=12.0,
    clocks=Clocks(2040, 6251),
    resting=Clocks(210, 405),
    capability="8.9",
    pcie_generation=4,
    rise=48.0,
    fan=False,
    slowdown=None,  # tells its thresholds as a distance to the limit only
    shutdown=None,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """What one card does: its job, and the (name, kind, share of the used memory, CPU percent at full load) of its
    processes. `encoder` and `decoder` are percent at full load."""

    model: Model
    job: Callable[[Noise, float], Load]
    processes: tuple[tuple[str, str, float, float], ...]
    encoder: float = 0.0
    decoder: float = 0.0


_DESKTOP = (("Xorg", "G", 0.3, 40.0), ("gnome-shell", "G", 0.7, 120.0))
ROLES = (
    Role(model=_RTX_4090, job=training, processes=(("python3", "C", 0.97, 104.0), ("Xorg", "G", 0.03, 2.0))),
    Role(model=_H100, job=inference, processes=(("VLLM::EngineCore", "C", 1.0, 135.0),)),
    Role(model=_RTX_3090, job=overheating, processes=(("blender", "C", 0.96, 230.0), ("Xorg", "G", 0.04, 3.0))),
    Role(model=_T4, job=idle, processes=(("python3", "C", 1.0, 20.0),)),
    Role(model=_A100, job=training, processes=(("torchrun", "C", 0.94, 118.0), ("python3", "C", 0.06, 30.0))),
    Role(
        model=_L4,
        job=inference,
        processes=(("tritonserver", "C", 0.8, 90.0), ("ffmpeg", "C", 0.2, 160.0)),
        encoder=34.0,
        decoder=58.0,
    ),
    Role(model=_RTX_4090, job=idle, processes=_DESKTOP),
    Role(model=_H100, job=training, processes=(("pt_main_thread", "C", 1.0, 112.0),)),
)
