"""dashtop: GPU and system monitor with history in the browser. What an embedding program imports is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.errors import DashtopError
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    import pandas as pd

    from dashtop.app import Dashtop
    from dashtop.client.run import Run
    from dashtop.notebook import Frame
    from dashtop.settings import Settings

__all__ = ["DashtopError", "__version__", "create_app", "load_ipython_extension", "read_history", "run", "show"]


def create_app(settings: Settings | None = None) -> Dashtop:
    """Create one dashtop and start collecting. Settings default to those of the environment and the settings file.

    `create_app().server` is the WSGI application; `create_app().close()` ends collection.
    """
    from dashtop import app as factory  # noqa: PLC0415 - `import dashtop` stays cheap
    from dashtop.settings import load  # noqa: PLC0415

    return factory.create_app(settings or load())


def read_history(
    range: str = "1h",  # noqa: A002
    *,
    gpu: int | Iterable[int] | None = None,
    metrics: Iterable[str] | None = None,
    url: str | None = None,
    token: str | None = None,
) -> pd.DataFrame:
    """Return the mean values of the last `range` (30s, 90m, 24h, 7d, …), indexed by time in UTC.

    With one `gpu` (an index), a column per metric key, of that GPU and the host. With several, or None for all, the
    columns have two levels: metric and GPU index, "" for the host. `frame["gpu.temperature"]` is then a DataFrame with
    a column per GPU, `frame["system.cpu.usage_percent"]` a Series. NaN is missing. Rows are as far apart as in the
    export of that range: one second for "1h".

    `metrics`: metric keys; None for all. Without `url`, the history of this machine is read, from the place that the
    environment (DASHTOP_DATA_DIR, DASHTOP_HISTORY_URL, DASHTOP_CONFIG) names; else that of the dashtop server at `url`
    with its access `token`. Needs `dashtop[pandas]`. Raises DashtopError with a message that says what to do.
    """
    from dashtop import dataframe  # noqa: PLC0415 - importing dashtop must cost nothing

    return dataframe.read_history(range, gpu=gpu, metrics=metrics, url=url, token=token)


def show(panel: str = "", *, height: int = 650, **settings: object) -> Frame | None:
    """Show the dashboard, or one panel, in the output of a notebook cell. See `dashtop.notebook.show`."""
    from dashtop import notebook  # noqa: PLC0415

    return notebook.show(panel, height=height, **settings)


def run(
    name: str, tags: Mapping[str, object] | None = None, *, url: str | None = None, token: str | None = None
) -> Run:
    """Return a run for `with` or as a decorator: a dashtop server then shows what it used of each GPU.

    `with dashtop.run("resnet-a", tags={"lr": "3e-4"}) as run: run.mark("epoch 3")`, and `print(run.report())` after it.
    The server is that at `url`, else at DASHTOP_URL, else on this machine; its access `token` is DASHTOP_TOKEN if not
    given. Never raises, and never waits for the server except in `report`. Of several ranks only rank 0 reports.
    """
    from dashtop.client.run import Run  # noqa: PLC0415 - `import dashtop` stays cheap

    return Run(name, tags, url=url, token=token)


def load_ipython_extension(ipython: Any) -> None:
    """Register the magic `%dashtop`, for `%load_ext dashtop`."""
    from dashtop import notebook  # noqa: PLC0415

    notebook.load_ipython_extension(ipython)
