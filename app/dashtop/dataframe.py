"""Stored history as a pandas DataFrame, from this machine or from a dashtop server."""

from __future__ import annotations

import http.client
import json
import operator
import urllib.error
import urllib.request
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np

from dashtop.app import open_history
from dashtop.export.command import Request, build_table
from dashtop.metrics import METRICS
from dashtop.model.errors import QueryError, ServerRequestError
from dashtop.model.ports import SystemClock
from dashtop.model.timerange import parse_duration
from dashtop.settings import load
from dashtop.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

REQUEST_TIMEOUT_S = 30.0
"""Longest time without data from the server."""
MAX_DETAIL_LENGTH = 300
MISSING_PANDAS = "read_history needs pandas: pip install 'dashtop[pandas]'."


class Means(NamedTuple):
    """Mean values: `values[row, column]`, NaN without a reading; a column is a metric and a GPU ("": the host)."""

    columns: list[tuple[str, int | str]]
    times_ms: NDArray[np.int64]
    values: NDArray[np.float64]


def read_history(
    time_range: str,
    *,
    gpu: int | Iterable[int] | None,
    metrics: Iterable[str] | None,
    url: str | None,
    token: str | None,
) -> pd.DataFrame:
    """Return stored history; see dashtop.read_history."""
    try:
        import pandas as pd  # noqa: PLC0415 - optional
    except ImportError:
        raise ImportError(MISSING_PANDAS) from None
    try:
        parse_duration(time_range)
    except ValueError as error:
        raise QueryError(f"range {time_range!r}: {error}.") from None
    keys = None if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    for key in keys or ():
        if key not in METRICS:
            raise QueryError(f"Unknown metric {key!r}. docs/metrics.md lists the keys.")
    gpus = None if gpu is None else [*map(operator.index, gpu if isinstance(gpu, Iterable) else [gpu])]
    means = _read_server(url, token, time_range, gpus, keys) if url is not None else _read_local(time_range, gpus, keys)
    index = pd.DatetimeIndex(means.times_ms.view("datetime64[ms]"), name="time").tz_localize("UTC")
    if gpu is None or isinstance(gpu, Iterable):
        columns = pd.MultiIndex.from_tuples(means.columns, names=["metric", "gpu"])
        frame = pd.DataFrame(means.values, index=index, columns=columns)
        return frame.iloc[:, _order_by_metric(means.columns, keys)]
    frame = pd.DataFrame(means.values, index=index, columns=[metric for metric, _ in means.columns])
    return frame if keys is None else frame.reindex(columns=keys)


def _order_by_metric(columns: list[tuple[str, int | str]], keys: list[str] | None) -> list[int]:
    """Return positions of the columns with those of one metric side by side, in the order of `keys` if given."""
    metrics = dict.fromkeys([*(keys or ()), *(metric for metric, _ in columns)])
    ranks = {metric: rank for rank, metric in enumerate(metrics)}
    return sorted(range(len(columns)), key=lambda number: ranks[columns[number][0]])


def _read_local(time_range: str, gpus: list[int] | None, metrics: list[str] | None) -> Means:
    """Read the history that the settings in the environment name. Raises ExportError if there is none."""
    clock = SystemClock()
    history = open_history(load(), clock)
    try:
        request = Request(
            range=time_range,
            gpus=tuple(map(str, gpus)) if gpus is not None else None,
            metrics=tuple(metrics) if metrics is not None else None,
        )
        table = build_table(request, history, clock.now_ms())
        pieces = [(piece[0], np.stack(piece[1::3], axis=1)) for piece in table.pieces()]
    finally:
        history.close()
    columns = [_get_label(column.description) for column in table.columns[1::3]]
    times = np.concatenate([np.empty(0, np.int64), *(times for times, _ in pieces)])
    return Means(columns, times, np.concatenate([np.empty((0, len(columns))), *(values for _, values in pieces)]))


def _get_label(column: Any) -> tuple[str, int | str]:
    """Return metric and GPU of a column: the index, the UUID of a GPU that has none now, "" for the host."""
    gpu = column["gpu"] if column["gpu"] is not None else column["gpu_uuid"]
    return column["metric"], "" if gpu is None else gpu


def _read_server(
    url: str, token: str | None, time_range: str, gpus: list[int] | None, metrics: list[str] | None
) -> Means:
    """Read the history of a server. Raises ServerRequestError."""
    query = {"format": "json", "range": time_range, "gpu": "all" if gpus is None else ",".join(map(str, gpus))}
    if metrics is not None:
        query["metrics"] = ",".join(metrics)
    base, given_token = _split_url(url)
    body = _request_json(base, "/api/v1/system/export?" + urlencode(query), token or given_token)
    try:
        positions = [number for number, column in enumerate(body["columns"]) if column["statistic"] == "mean"]
        columns = [_get_label(body["columns"][number]) for number in positions]
        times = np.array([row[0] for row in body["rows"]], dtype=np.int64)
        values = np.array([[row[1 + number] for number in positions] for row in body["rows"]], dtype=np.float64)
    except (KeyError, IndexError, TypeError, ValueError):
        raise _not_dashtop(base) from None
    return Means(columns, times, values.reshape(len(times), len(columns)))


def _split_url(url: str) -> tuple[str, str | None]:
    """Return the address without a query, and the token in it: `dashtop` prints addresses with `?token=`."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
        is_valid = is_valid and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ServerRequestError("url: must be the address of a dashtop server, such as http://gpu1:8050/.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", parse_qs(parts.query).get("token", [None])[0]


def _not_dashtop(base: str, status: int = HTTPStatus.OK) -> ServerRequestError:
    return ServerRequestError(
        f"{base} does not answer like a dashtop of version {__version__} (HTTP status {status}). Check the address and"
        " its path prefix."
    )


def _request_json(base: str, path: str, token: str | None) -> Any:
    request = urllib.request.Request(base + path, headers={"Accept": "application/json"})  # noqa: S310 - checked above
    if token is not None:
        if not (token.isascii() and token.isprintable()):
            raise ServerRequestError("token: must consist of printable ASCII characters.")
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(_RefuseRedirect).open(request, timeout=REQUEST_TIMEOUT_S) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        with error:
            raise _explain_status(base, error, has_token=token is not None) from None
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ServerRequestError(f"{base} cannot be reached ({reason}).") from error
    except http.client.HTTPException as error:
        raise ServerRequestError(f"{base} broke the connection or does not speak HTTP ({error!r}).") from error
    try:
        return json.loads(body)
    except ValueError:
        raise _not_dashtop(base) from None


def _explain_status(base: str, error: urllib.error.HTTPError, *, has_token: bool) -> ServerRequestError:
    if error.code == HTTPStatus.UNAUTHORIZED:
        return ServerRequestError(
            f"{base} rejects the access token." if has_token else f"{base} requires an access token: pass token=…."
        )
    if HTTPStatus.MULTIPLE_CHOICES <= error.code < HTTPStatus.BAD_REQUEST:
        target = error.headers.get("Location", "")[:MAX_DETAIL_LENGTH]
        return ServerRequestError(f"{base} redirects to {target!r}. Use the address at which dashtop answers itself.")
    try:
        detail = json.load(error)["detail"]
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return _not_dashtop(base, error.code)
    return ServerRequestError(f"{base}: {str(detail)[:MAX_DETAIL_LENGTH]}")


class _RefuseRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the access token would go to another host, or the answer be a login page."""

    def redirect_request(self, *_: Any) -> None:
        return None
