"""A sample on its way from the process that collects to those that follow: one line of JSON.

JSON builds nothing but data, whatever arrives, and pydantic holds it against the classes of `domain.sample`: a field
that is added there travels without a word here. Each line is whole, so one may begin to listen with any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

from pydantic import Field, TypeAdapter

from dashtop.metrics import GPU_METRICS, HOST_METRICS
from dashtop.model.sample import Sample  # noqa: TC001 - pydantic reads the annotations

MOST_BYTES = 16 * 2**20
LONGEST_WISH = 64
_GPU_KEYS = {metric.key for metric in GPU_METRICS}
_HOST_KEYS = {metric.key for metric in HOST_METRICS}


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What is told with every sample. `family`: the server whose worker `pid` is, empty for one on its own."""

    pid: int
    family: str
    interval_s: Annotated[float, Field(ge=0.01, le=3600)]
    trouble: str | None
    sample: Sample


@cache
def _adapter() -> TypeAdapter[News]:
    """Made at the first use: it takes a tenth of a second, which one who is alone need not spend."""
    return TypeAdapter(News)


def encode(news: News) -> bytes:
    """Return the news as a line."""
    return _adapter().dump_json(news) + b"\n"


def decode(line: bytes) -> News:
    """Return the news of a line. Raises ValueError where it is none, or that of another version of dashtop."""
    news = _adapter().validate_json(line)
    told = (news.sample.host.values.keys() == _HOST_KEYS, *(g.values.keys() == _GPU_KEYS for g in news.sample.gpus))
    if not all(told):
        raise ValueError("it has other metrics")
    return news


def encode_wish(interval_s: float) -> bytes:
    """Return, as a line, how often somebody looks."""
    return f"{interval_s:.3f}\n".encode()


def decode_wish(line: bytes) -> float:
    """Return the seconds of a wish. Raises ValueError for anything else."""
    interval_s = float(line)
    if not 0.01 <= interval_s <= 3600:  # noqa: PLR2004 - the bounds of News.interval_s
        raise ValueError("no such interval")
    return interval_s
