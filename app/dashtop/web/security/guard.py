"""Checks before every request: size, host, rate limit, token, origin, callback body. Security headers after it."""

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

from dashtop.web.security.callback import find_callback_error
from dashtop.web.security.headers import add_security_headers, build_content_security_policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask import Flask, Response
    from werkzeug.wrappers import Response as BaseResponse

    from dashtop.web.security.hosts import AllowedHosts
    from dashtop.web.security.token import TokenAuth

MAX_URL_LENGTH = 4096
MAX_BODY_BYTES = 2**20
MAX_QUOTED_LENGTH = 80
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SAME_SITE = frozenset({"same-origin", "none"})


@dataclass(frozen=True, kw_only=True, slots=True)
class SecurityPolicy:
    """What the guard enforces. `token` None: no authentication. `url_prefix` ends with a slash.

    `callbacks`: Dash's registered callbacks by output.
    """

    hosts: AllowedHosts
    token: TokenAuth | None
    rate_limit: str
    url_prefix: str
    frame_ancestors: Sequence[str]
    script_hashes: Sequence[str]
    callback_path: str
    callbacks: Mapping[str, Mapping[str, Any]]


def register(server: Flask, policy: SecurityPolicy) -> None:
    """Check every request to `server`, and add security headers to every response."""
    server.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES  # for bodies sent without Content-Length
    content_policy = build_content_security_policy(
        script_hashes=policy.script_hashes, frame_ancestors=policy.frame_ancestors
    )
    server.before_request(_RequestGuard(policy).check)

    @server.after_request
    def _add_headers(response: Response) -> Response:
        return add_security_headers(response, content_policy)


class _RequestGuard:
    def __init__(self, policy: SecurityPolicy) -> None:
        self._policy = policy
        self._limit = parse_limit(policy.rate_limit)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._api_path = policy.url_prefix + "api/"
        self._public_paths = {policy.url_prefix + name for name in ("healthz", "readyz")}

    def check(self) -> BaseResponse | None:
        """Return None if the request is allowed, or a redirect. Raise HTTPException if it is refused."""
        self._check_size()
        self._check_host()
        self._check_rate()
        if self._policy.token is not None and request.path not in self._public_paths:
            redirect = self._policy.token.authenticate(request)
            if redirect is not None:
                return redirect
        if request.method not in SAFE_METHODS:
            self._check_origin()
        if request.path == self._policy.callback_path and request.method == "POST":
            self._check_callback()
        return None

    @staticmethod
    def _check_size() -> None:
        if len(request.path) + len(request.query_string) > MAX_URL_LENGTH:
            raise RequestURITooLarge(f"The URL is longer than {MAX_URL_LENGTH} characters.")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise RequestEntityTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")

    def _check_host(self) -> None:
        host = request.environ.get("HTTP_HOST", "")
        if not self._policy.hosts.is_allowed(host):
            raise Forbidden(f"Host {host[:MAX_QUOTED_LENGTH]!r} is not allowed. Add it with --allowed-hosts.")

    def _check_rate(self) -> None:
        if not request.path.startswith(self._api_path):
            return
        client = request.remote_addr or ""
        if not self._limiter.hit(self._limit, client):
            reset_at_s, _ = self._limiter.get_window_stats(self._limit, client)
            raise TooManyRequests(
                f"Rate limit exceeded: {self._limit} for each client. Change it with --rate-limit.",
                retry_after=max(1, math.ceil(reset_at_s - time.time())),
            )

    @staticmethod
    def _check_origin() -> None:
        """Refuse requests from pages of other sites (CSRF). Older browsers send Origin instead of Sec-Fetch-Site."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site is not None:
            is_cross_site = site not in SAME_SITE
        else:
            is_cross_site = origin is not None and urlsplit(origin).netloc != request.host
        if is_cross_site:
            raise Forbidden("Cross-site requests are not allowed.")

    def _check_callback(self) -> None:
        if not request.is_json:
            raise UnsupportedMediaType("The content type of a callback request must be application/json.")
        try:
            body = request.get_json()
        except RecursionError:
            raise BadRequest("The body is nested too deeply.") from None
        error = find_callback_error(body, self._policy.callbacks)
        if error is not None:
            raise BadRequest(error)
