"""The processes on a simulated card: names and proportions as recorded, owners and ages invented."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dashtop.model.sample import GpuProcess, ProcessInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.sources.simulated.cards import Recording
    from dashtop.sources.simulated.engine import Engine

_GIB: Final = 2**30
_HOUR_MS: Final = 3_600_000
_LONGEST_H: Final = 60.0
# Who sits at a card that draws.
_AT_THE_SCREEN: Final = ProcessInfo(username="edsger")
# Channels of the card's noise.
_CPU, _AGE, _RAM, _WAVE = 10, 21, 22, 11


class DemoProcesses:
    """The processes of one card. `born_ms`: the moment (epoch) before which they have all been started."""

    def __init__(self, recording: Recording, engine: Engine, born_ms: int) -> None:
        self._recorded: Sequence[Mapping[str, Any]] = recording.told("processes")
        self._engine, self._born_ms = engine, born_ms

    def read(self, held: int) -> tuple[GpuProcess, ...]:
        """Return them sharing `held` bytes as they did when recorded; the first has what the others leave."""
        whole = sum(process["used_memory"] for process in self._recorded)
        sizes = [held * process["used_memory"] // whole for process in self._recorded]
        sizes[0] += held - sum(sizes)
        return tuple(
            self._process(n, process, size) for n, (process, size) in enumerate(zip(self._recorded, sizes, strict=True))
        )

    def _process(self, n: int, recorded: Mapping[str, Any], size: int) -> GpuProcess:
        noise, draws = self._engine.noise, recorded["type"] == "G"
        effort = 0.1 + 0.9 * self._engine.load.busy / 100.0
        cpu = 130.0 * noise.dice(_CPU, n) * effort * (1.0 + 0.1 * noise.wave(_WAVE + n, self._engine.now, 3.0))
        age_h = 0.2 + _LONGEST_H * noise.dice(_AGE, n)
        ram = (0.3 + 2.5 * noise.dice(_RAM, n)) * _GIB * (0.1 if draws else 1.0)
        return GpuProcess(
            pid=recorded["pid"] + self._engine.first_pid,
            kind=recorded["type"],
            gpu_memory_bytes=size,
            sm_percent=self._busy(recorded.get("sm_util")),
            memory_percent=self._busy(recorded.get("mem_util")),
            encoder_percent=self._busy(recorded.get("enc_util")),
            decoder_percent=self._busy(recorded.get("dec_util")),
            cpu_percent=round(cpu, 1),
            host_memory_bytes=int(ram),
            info=replace(
                _AT_THE_SCREEN if draws else self._engine.owner,
                name=recorded["name"].rpartition("/")[2],
                started_ms=self._born_ms - int(age_h * _HOUR_MS),
            ),
        )

    def _busy(self, recorded: int | None) -> float | None:
        """Percent: what was recorded, at the present load; None where it was not told."""
        return None if recorded is None else float(round(recorded * self._engine.load.busy / 100.0))
