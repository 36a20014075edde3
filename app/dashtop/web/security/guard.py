"""The guard of one server: every request passes it first, every answer last."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import request
from limits import parse as parse_limit
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    RequestEntityTooLarge,
    RequestURITooLarge,
    TooManyRequests,
    UnsupportedMediaType,
)

from dashtop.web.security.callback import problem
from dashtop.web.security.headers import content_policy, secured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask import Flask, Response
    from werkzeug.wrappers import Response as BaseResponse

    from dashtop.web.security.hosts import Hosts
    from dashtop.web.security.token import Token

LONGEST_ADDRESS = 4096
LARGEST_BODY = 2**20
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SAME_SITE = frozenset({"same-origin", "none"})
SHOWN = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a guard holds requests to. `token` None: anyone who reaches the server may ask. `url_prefix` ends with /."""

    hosts: Hosts
    token: Token | None
    rate_limit: str
    url_prefix: str
    frame_ancestors: Sequence[str]
    script_hashes: Sequence[str]
    callback_path: str
    callbacks: Mapping[str, Mapping[str, Any]]


def register(server: Flask, rules: Rules) -> None:
    """Put the guard before and behind everything that `server` answers."""
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    guard = _Guard(rules)
    policy = content_policy(script_hashes=rules.script_hashes, frame_ancestors=rules.frame_ancestors)
    server.before_request(guard.check)

    @server.after_request
    def _secure(response: Response) -> Response:
        return secured(response, policy)


class _Guard:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._limit = parse_limit(rules.rate_limit)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._api = rules.url_prefix + "api/"
        self._open = {rules.url_prefix + name for name in ("healthz", "readyz")}

    def check(self) -> BaseResponse | None:
        """Raise what is wrong with the request; None lets it pass."""
        self._check_size()
        self._check_host()
        self._check_rate()
        if self._rules.token is not None and request.path not in self._open:
            redirected = self._rules.token.check(request)
            if redirected is not None:
                return redirected
        if request.method not in SAFE_METHODS:
            self._check_origin()
        if request.path == self._rules.callback_path and request.method == "POST":
            self._check_callback()
        return None

    @staticmethod
    def _check_size() -> None:
        if len(request.path) + len(request.query_string) > LONGEST_ADDRESS:
            raise RequestURITooLarge(f"An address may have {LONGEST_ADDRESS} characters.")
        if (request.content_length or 0) > LARGEST_BODY:
            raise RequestEntityTooLarge(f"A body may have {LARGEST_BODY} bytes.")

    def _check_host(self) -> None:
        host = request.environ.get("HTTP_HOST", "")
        if not self._rules.hosts.knows(host):
            raise Forbidden(
                f"This server does not go by the name {host[:SHOWN]!r}; --allowed-hosts gives it more names."
            )

    def _check_rate(self) -> None:
        if not request.path.startswith(self._api):
            return
        client = request.remote_addr or ""
        if not self._limiter.hit(self._limit, client):
            free_at, _ = self._limiter.get_window_stats(self._limit, client)
            raise TooManyRequests(
                f"More than {self._limit} from one client; --rate-limit sets another limit.",
                retry_after=max(1, math.ceil(free_at - time.time())),
            )

    @staticmethod
    def _check_origin() -> None:
        """Refuse what another site's page may have sent: browsers vouch for Sec-Fetch-Site, older ones for Origin."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site is not None:
            foreign = site not in SAME_SITE
        else:
            foreign = origin is not None and urlsplit(origin).netloc != request.host
        if foreign:
            raise Forbidden("Another site's page may not send this.")

    def _check_callback(self) -> None:
        if not request.is_json:
            raise UnsupportedMediaType("A callback request is application/json.")
        try:
            body = request.get_json()
        except RecursionError:
            raise BadRequest("The body is nested too deeply.") from None
        wrong = problem(body, self._rules.callbacks)
        if wrong is not None:
            raise BadRequest(wrong)
