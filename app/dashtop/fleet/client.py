"""The HTTP client of an engine with Prometheus' query API: Prometheus, Thanos, Mimir, VictoriaMetrics."""

from __future__ import annotations

import logging
import math
import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

import orjson
import urllib3

from dashtop.fleet.collection import CollectionPause
from dashtop.model.errors import DashtopError
from dashtop.model.fleet import FleetError, FleetFailure
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONNECT_TIMEOUT_S: Final = 2.0
LIVE_TIMEOUT_S: Final = 10.0
HISTORY_TIMEOUT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 64 * 2**20
MAX_KEYS: Final = 100_000
"""Texts of labels whose meaning is kept, of one set of labels."""
MAX_CONNECTIONS: Final = 4
CHUNK_BYTES: Final = 2**16
MAX_QUOTED_LENGTH: Final = 200
MAX_RETRY_AFTER_S: Final = 600.0

log = logging.getLogger(__name__)


class RequestFailedError(DashtopError):
    """A request gave no answer; `error` says why."""

    def __init__(self, error: FleetError) -> None:
        super().__init__(error.sentence)
        self.error = error


def fail(failure: FleetFailure, sentence: str, retry_after_s: float | None = None) -> RequestFailedError:
    """Return the exception for a failure."""
    return RequestFailedError(FleetError(failure, sentence, retry_after_s))


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """How requests identify themselves. Nothing of it is logged or shown. `certificate`: client certificate and key."""

    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: Path | None = None


class HttpClient:
    """Requests to servers, with limits of time and size, without redirects. Thread-safe."""

    def __init__(self, credentials: Credentials, *, max_connections: int, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._headers = {"Accept-Encoding": "gzip", "User-Agent": "dashtop", **credentials.headers}
        if credentials.token is not None:
            self._headers["Authorization"] = f"Bearer {credentials.token}"
        certificate = str(credentials.certificate) if credentials.certificate is not None else None
        tls = {"cert_file": certificate} if certificate is not None else {}
        self._max_bytes = max_bytes
        self._pool = urllib3.PoolManager(num_pools=64, maxsize=max_connections, retries=False, **tls)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        form: Mapping[str, str] | None = None,
        basic: str | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body. Raises RequestFailedError if there is none, or it is too large."""
        headers = dict(self._headers)
        if basic is not None and "Authorization" not in headers:
            headers["Authorization"] = urllib3.util.make_headers(basic_auth=basic)["authorization"]
        body = None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(form)
        end_s = time.monotonic() + timeout_s
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
            )
            try:
                return response.status, response.headers, self._read(response, url, end_s)
            except BaseException:
                response.close()
                raise
            finally:
                response.release_conn()
        except urllib3.exceptions.TimeoutError as error:
            if isinstance(error, urllib3.exceptions.NewConnectionError):
                raise fail(FleetFailure.UNREACHABLE, f"{url} cannot be reached ({_describe(error)}).") from None
            raise fail(FleetFailure.TIMEOUT, f"{url} did not answer within {timeout_s:g} s.") from None
        except urllib3.exceptions.SSLError as error:
            raise fail(
                FleetFailure.UNREACHABLE, f"{url}: the certificate is not accepted ({_describe(error)})."
            ) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise fail(FleetFailure.UNREACHABLE, f"{url} cannot be reached ({_describe(error)}).") from None

    def _read(self, response: Any, url: str, end_s: float) -> bytes:
        pieces, size = [], 0
        for piece in response.stream(CHUNK_BYTES, decode_content=True):
            size += len(piece)
            if size > self._max_bytes:
                limit = self._max_bytes >> 20
                raise fail(FleetFailure.TOO_LARGE, f"The answer of {url} is larger than {limit} MB.")
            if time.monotonic() > end_s:
                raise fail(FleetFailure.TIMEOUT, f"{url} did not send its answer in time.")
            pieces.append(piece)
        return b"".join(pieces)


def _describe(error: Exception) -> str:
    """Return the cause of a failed connection in a few words, without the objects that urllib3 names."""
    cause: Any = getattr(error, "reason", None) or error
    text = re.sub(r"^.*?: (?=Failed|\[|Name)|<[^>]*>:? ?", "", str(cause))
    return sanitize_text(text or type(cause).__name__, MAX_QUOTED_LENGTH)


Series = dict[str, Any]
"""One series of an answer: `metric` has its labels, `value` time and value as text."""


class Vector(NamedTuple):
    """The answer to an instant query. `series`: as the engine sends them. `time_s`: by the engine's clock."""

    series: list[Series]
    time_s: float | None
    warnings: tuple[str, ...]

    @property
    def rows(self) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series whose value is finite."""
        return [(each["metric"], float(each["value"][1])) for each in self.series if is_finite(each["value"][1])]


class Values(NamedTuple):
    """The answer to an instant query by the values of some labels; only finite values."""

    values: dict[tuple[str, ...], float]
    time_s: float | None
    warnings: tuple[str, ...]


class ValueScanner:
    """Reads values of answers without creating objects for their JSON. Thread-safe.

    Prometheus and VictoriaMetrics write labels in order and without spaces, and all values of an answer have the same
    time: between the labels of a series and its value there is always the same text, and so between two series. The
    text of a series' labels is the same in each answer: what it means is found out once. 8,000 series take 5 ms instead
    of 30, and leave no objects that Python would search for cycles.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """`labels`: all that the series have; their values are the keys of the answer."""
        self._labels = tuple(labels)
        self._keys: dict[str, tuple[str, ...]] = {}
        self._last: tuple[list[str], list[tuple[str, ...]]] = [], []

    def scan(self, data: bytes) -> Values | None:
        """Return the values of an answer; None if it has anything unusual."""
        if not data.startswith(_VECTOR_START) or b"\\" in data or _PARTIAL.search(data):
            return None
        text = data.decode("utf-8", "replace")
        first = _FIRST_SERIES.search(text)
        if first is None:
            return None
        series = text[first.start("labels") : text.rfind(_LAST_SERIES_END)]
        parts = series.replace(_SERIES_END, first["between"]).split(first["between"])
        texts, numbers = parts[::2], parts[1::2]
        if len(texts) != len(numbers) or len(texts) != data.count(b'"metric":'):
            return None
        keys = self._find_keys(texts)
        if keys is None:
            return None
        try:
            values = dict(zip(keys, map(float, numbers), strict=True))
        except ValueError:
            return None
        if not math.isfinite(sum(values.values())):  # one of them is not
            values = {key: value for key, value in values.items() if math.isfinite(value)}
        return Values(values, float(first["time"]), ())

    def _find_keys(self, texts: list[str]) -> list[tuple[str, ...]] | None:
        """Return the keys of the texts of labels; None if a series has other labels."""
        last, keys = self._last
        if texts != last:  # engines answer in the same order until a GPU comes or goes
            try:
                keys = [self._keys[text] for text in texts]
            except KeyError:
                if not self._learn(texts):
                    return None
                keys = [self._keys[text] for text in texts]
            self._last = texts, keys
        return keys

    def _learn(self, texts: Sequence[str]) -> bool:
        """Find out what the texts of labels mean. Return False if a series has other labels."""
        known = self._keys if len(self._keys) + len(texts) <= MAX_KEYS else {}
        for text in texts:
            if text not in known:
                try:
                    labels = orjson.loads(f"{{{text}}}")
                except ValueError:
                    return False
                if not labels.keys() <= set(self._labels):
                    return False
                known[text] = tuple(labels.get(label, "") for label in self._labels)
        self._keys = known
        return True


_PARTIAL: Final = re.compile(rb'"warnings"|"isPartial":true')
_VECTOR_START: Final = b'{"status":"success",'
_FIRST_SERIES: Final = re.compile(r'\{"metric":\{(?P<labels>[^{}]*)(?P<between>\},"value":\[(?P<time>[0-9.]+),")')
_SERIES_END: Final = '"]},{"metric":{'
_LAST_SERIES_END: Final = '"]}]'


def is_finite(text: str) -> bool:
    """Return whether the text of a value is a number: not NaN, +Inf or -Inf, the only ones that end in a letter."""
    return text[-1] <= "9"


class Matrix(NamedTuple):
    """The answer to a range query. `rows`: labels, and pairs of time and value as text."""

    rows: list[tuple[dict[str, str], list[tuple[float, str]]]]
    warnings: tuple[str, ...]


class _Refusal(NamedTuple):
    """What an answer other than a result means. The status decides: engines differ in errorType.

    `statuses`: empty for any. `pattern`: what its message has, None for any answer, also one that is not JSON.
    """

    statuses: frozenset[int]
    failure: FleetFailure
    sentence: str
    pattern: re.Pattern[str] | None = None

    def matches(self, status: int, message: str) -> bool:
        is_meant = not self.statuses or status in self.statuses
        return is_meant and (self.pattern is None or self.pattern.search(message) is not None)


_ANY: Final = re.compile(".")
_REFUSALS: Final = (
    _Refusal(
        frozenset({401, 403}),
        FleetFailure.TOKEN_REQUIRED,
        "{url} requires a token, or refuses this one (status {status}). Set it with --fleet-token.",
    ),
    _Refusal(frozenset({429}), FleetFailure.RATE_LIMITED, "{url} accepts no more queries at present."),
    _Refusal(
        frozenset({422}),
        FleetFailure.TOO_MANY_SAMPLES,
        "The query exceeds a limit of the engine: {message}.",
        # Prometheus: "query processing would load too many samples into memory", Thanos: "exceeded samples limit",
        # Mimir: "err-mimir-max-…", VictoriaMetrics: "cannot select more than -search.maxSamplesPerQuery=… samples".
        re.compile(r"too many (samples|series|points)|limit|cannot select more than|max-", re.IGNORECASE),
    ),
    _Refusal(frozenset({400, 422}), FleetFailure.BAD_QUERY, "The engine refused a query: {message}.", _ANY),
    _Refusal(
        frozenset({502, 504}),
        FleetFailure.UNREACHABLE,
        "The proxy at {url} cannot reach the engine (status {status}).",
    ),
    _Refusal(frozenset({503}), FleetFailure.OVERLOADED, "{url} is starting, or has too much to do: {message}."),
    _Refusal(frozenset({500}), FleetFailure.ENGINE_ERROR, "{url} has failed (status {status}): {message}."),
    _Refusal(frozenset({200}), FleetFailure.ENGINE_ERROR, "{url} has failed: {message}.", _ANY),
    _Refusal(
        frozenset(),
        FleetFailure.WRONG_ADDRESS,
        "{url} is not a Prometheus API (status {status}). Set the address, with its path, with --fleet-url.",
    ),
)


class EngineClient:
    """The query API below one base URL. Methods raise RequestFailedError."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        parts = urlsplit(url)
        self._basic = (
            f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username is not None else None
        )
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        """The base URL without a password."""
        self.collection = CollectionPause()
        self._scanners: dict[tuple[str, ...], ValueScanner] = {}
        self._http = HttpClient(credentials, max_connections=MAX_CONNECTIONS)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def query(self, expression: str, *, timeout_s: float = LIVE_TIMEOUT_S) -> Vector:
        """Return the present values. The engine's clock decides what is present, so no time is sent."""
        return self._build_vector(*self._ask("query", {"query": expression}, timeout_s))

    def _build_vector(self, data: Any, warnings: tuple[str, ...]) -> Vector:
        try:
            if data["resultType"] in {"scalar", "string"}:
                return Vector([{"metric": {}, "value": data["result"]}], float(data["result"][0]), warnings)
            series = data["result"]
            if series:  # all have the time of the evaluation
                _check_series(series[0])
            return Vector(series, float(series[0]["value"][0]) if series else None, warnings)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._unreadable(error) from None

    def query_values(self, expression: str, labels: Sequence[str], *, timeout_s: float) -> Values:
        """Return the present values by the values of some labels, which are all that the series have."""
        form = {"query": expression}
        status, headers, data = self._send("query", form, timeout_s)
        with self.collection.pause():
            scanner = self._scanners.setdefault(tuple(labels), ValueScanner(labels))
            found = scanner.scan(data) if status == HTTPStatus.OK else None
            if found is not None:
                return found
            answer = self._build_vector(*self._read(status, headers, data, form))
            try:
                values = {
                    tuple(each["metric"].get(label, "") for label in labels): float(each["value"][1])
                    for each in answer.series
                    if is_finite(each["value"][1])
                }
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise self._unreadable(error) from None
        return Values(values, answer.time_s, answer.warnings)

    def query_range(self, expression: str, start_s: float, end_s: float, step_s: int) -> Matrix:
        """Return the values at each step from start to end, both by the engine's clock."""
        form = {"query": expression, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": str(step_s)}
        data, warnings = self._ask("query_range", form, HISTORY_TIMEOUT_S)
        try:
            return Matrix([(series["metric"], series["values"]) for series in data["result"]], warnings)
        except (KeyError, TypeError) as error:
            raise self._unreadable(error) from None

    def _ask(self, name: str, form: dict[str, str], timeout_s: float) -> tuple[Any, tuple[str, ...]]:
        """Return the data and warnings of an answer."""
        return self._read(*self._send(name, form, timeout_s), form)

    def _send(self, name: str, form: dict[str, str], timeout_s: float) -> tuple[int, Mapping[str, str], bytes]:
        form["timeout"] = f"{max(1, math.ceil(timeout_s))}s"
        url = f"{self.url}/api/v1/{name}"
        return self._http.request("POST", url, timeout_s=timeout_s, form=form, basic=self._basic)

    def _read(
        self, status: int, headers: Mapping[str, str], data: bytes, form: Mapping[str, str]
    ) -> tuple[Any, tuple[str, ...]]:
        with self.collection.pause():
            body = parse_json(data)
        if status != HTTPStatus.OK or not isinstance(body, dict) or body.get("status") != "success":
            raise self._find_failure(status, headers, body, form["query"])
        warnings = body.get("warnings")
        texts = [*warnings] if isinstance(warnings, list) else []
        if body.get("isPartial") is True:  # a cluster of VictoriaMetrics
            texts.append("a part of the engine did not answer")
        return body.get("data"), tuple(sanitize_text(str(each), MAX_QUOTED_LENGTH) for each in texts)

    def _find_failure(
        self, status: int, headers: Mapping[str, str], body: object, expression: str
    ) -> RequestFailedError:
        """Return the failure that an answer means."""
        message = sanitize_text(str(body.get("error", "")), MAX_QUOTED_LENGTH) if isinstance(body, dict) else ""
        row = next(row for row in _REFUSALS if row.matches(status, message))
        if row.failure.is_ours:
            log.error("The engine refused a query of dashtop: %s; query: %s", message, expression)
        sentence = row.sentence.format(url=self.url, status=status, message=message or "no reason given")
        return fail(row.failure, sentence, _parse_retry_after(headers.get("Retry-After")))

    def _unreadable(self, error: Exception) -> RequestFailedError:
        return fail(FleetFailure.BAD_ANSWER, f"The answer of {self.url} cannot be read ({type(error).__name__}).")


def _check_series(series: Series) -> None:
    """Raise KeyError, TypeError, ValueError or IndexError unless it is a series with a value."""
    series["metric"].items()
    float(series["value"][1])


def parse_json(data: bytes) -> object:
    """Return a JSON document; None if it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _parse_retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None for a date, which needs clocks that agree."""
    if text is None or not text.strip().isdecimal():
        return None
    return min(float(text), MAX_RETRY_AFTER_S)
