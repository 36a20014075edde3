"""Checks before every request: size, host, rate limit, token, origin, callback body. Security headers after it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import after_this_request, request
from limits import parse as parse_limit
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    RequestEntityTooLarge,
    RequestURITooLarge,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
)

from dashtop.model.text import sanitize_text
from dashtop.web.security.callback import find_callback_error
from dashtop.web.security.guesses import GuessLimiter
from dashtop.web.security.headers import add_security_headers, build_content_security_policy
from dashtop.web.security.pages import build_host_page, build_token_form, build_wait_page, is_for_person
from dashtop.web.security.proxy import find_viewer, get_forwarded_hosts
from dashtop.web.security.rates import RateLimiter
from dashtop.web.security.token import PARAMETER, find_presented

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flask import Flask, Response
    from werkzeug.wrappers import Response as BaseResponse

    from dashtop.web.security.hosts import AllowedHosts
    from dashtop.web.security.token import TokenAuth

MAX_URL_LENGTH = 4096
MAX_BODY_BYTES = 2**20
MAX_QUOTED_LENGTH = 80
RUNS_RATE_LIMIT = "100/second"
"""Requests of the clients of runs, allowed to each address. All trainings of a machine or behind a proxy share one."""
RUNS_PATH = "api/v1/system/runs"
RUN_METHODS = frozenset({"POST", "PATCH"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SAME_SITE = frozenset({"same-origin", "none"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SecurityPolicy:
    """What the guard enforces. `url_prefix` ends with a slash.

    `token` None: no authentication. `embed_token` opens `embed_paths` only, which are below `url_prefix`.
    `has_proxy`: requests come through trusted proxies, which name the user in `viewer_header`. `callbacks`: Dash's
    registered callbacks by output.
    """

    hosts: AllowedHosts
    token: TokenAuth | None
    embed_token: TokenAuth | None
    embed_paths: Sequence[str]
    has_proxy: bool
    viewer_header: str | None
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
        self._rates = RateLimiter(self._limit)
        self._runs_limit = parse_limit(RUNS_RATE_LIMIT)
        self._runs_rates = RateLimiter(self._runs_limit)
        self._guesses = GuessLimiter()
        self._api_path = policy.url_prefix + "api/"
        self._embed_paths = tuple(policy.url_prefix + path for path in policy.embed_paths)
        self._runs_path = policy.url_prefix + RUNS_PATH
        self._public_paths = {policy.url_prefix + name for name in ("healthz", "readyz")}

    def check(self) -> BaseResponse | None:
        """Return None if the request is allowed, or a redirect or page instead. Raise HTTPException if refused."""
        self._check_size()
        is_authenticated = any(token.has_cookie(request) for token in self._tokens())
        wait_s = self._count_guesses()
        if wait_s > 0 and not is_authenticated:
            return self._refuse_guess(wait_s)
        if wait_s == 0:
            for token in self._tokens():
                redirect = token.sign_in(request)
                if redirect is not None:
                    return redirect
                is_authenticated = is_authenticated or token.has_token(request)
        # A page that has rebound its DNS name to this server has neither token nor cookie.
        if not is_authenticated:
            refusal = self._check_token() or self._check_host()
            if refusal is not None:
                return refusal
        self._check_rate()
        if request.method not in SAFE_METHODS:
            self._check_origin()
        if request.path == self._policy.callback_path and request.method == "POST":
            self._check_callback()
        self._log_viewer()
        self._renew_cookies()
        return None

    def _tokens(self) -> Iterator[TokenAuth]:
        """Yield the tokens that open the requested path."""
        policy = self._policy
        if policy.token is not None:
            yield policy.token
        if policy.embed_token is not None and request.path.startswith(self._embed_paths):
            yield policy.embed_token

    def _renew_cookies(self) -> None:
        """Have the response replace cookies of the request that are old.

        Only a response that nothing stores may carry a cookie: a cache would give it to others.
        """
        for token in self._tokens():
            if token.needs_renewal(request):

                @after_this_request
                def renew(response: Response, token: TokenAuth = token) -> Response:
                    is_kept = response.headers.get("Cache-Control", "no-store") != "no-store"
                    if response.status_code < HTTPStatus.BAD_REQUEST and not is_kept:
                        token.set_cookie(request, response)
                    return response

    def _count_guesses(self) -> float:
        """Count wrong tokens of the request. Return the seconds to wait before its tokens, right or wrong, count."""
        policy, client = self._policy, request.remote_addr or ""
        tokens = [token for token in (policy.token, policy.embed_token) if token is not None]
        presented = find_presented(request, policy.url_prefix) if tokens else []
        wait_s = self._guesses.get_wait_s(client, presented) if presented else 0.0
        if wait_s == 0:
            for value in presented:
                if value and not any(token.is_token(value) for token in tokens):
                    self._guesses.add(client, value)
        return wait_s

    def _refuse_guess(self, wait_s: float) -> Response:
        retry_after = math.ceil(wait_s)
        if is_for_person(request) and not request.path.startswith(self._api_path):
            return build_wait_page(retry_after)
        raise TooManyRequests(f"Too many wrong access tokens. Try again in {retry_after} s.", retry_after=retry_after)

    def _check_token(self) -> Response | None:
        if self._policy.token is None or request.path in self._public_paths:
            return None
        if is_for_person(request) and not request.path.startswith(self._api_path):
            return build_token_form(request, PARAMETER)
        raise Unauthorized(
            "Access token required. Open the URL printed at startup, or send the header Authorization: Bearer TOKEN.",
            www_authenticate=WWWAuthenticate("bearer", {"realm": "dashtop"}),
        )

    def _log_viewer(self) -> None:
        """Log which user opens a page: navigation, not what the page loads."""
        header = self._policy.viewer_header
        if header is not None and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate":
            viewer = find_viewer(request, header)
            log.info("%s opened %s", viewer or "A user without a name", sanitize_text(request.path, MAX_URL_LENGTH))

    @staticmethod
    def _check_size() -> None:
        if len(request.path) + len(request.query_string) > MAX_URL_LENGTH:
            raise RequestURITooLarge(f"The URL is longer than {MAX_URL_LENGTH} characters.")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise RequestEntityTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")

    def _check_host(self) -> Response | None:
        """Refuse a name that is not allowed. Proxies add names to check; they cannot replace the Host header."""
        hosts = [request.environ.get("HTTP_HOST", ""), *self._get_forwarded_hosts()]
        host = next((each for each in hosts if not self._policy.hosts.is_allowed(each)), None)
        if host is None:
            return None
        host = host[:MAX_QUOTED_LENGTH]
        if is_for_person(request) and not request.path.startswith(self._api_path):
            return build_host_page(host)
        raise Forbidden(f"Host {host!r} is not allowed. Add it with --allowed-hosts.")

    def _get_forwarded_hosts(self) -> list[str]:
        return get_forwarded_hosts(request) if self._policy.has_proxy else []

    def _check_rate(self) -> None:
        if not request.path.startswith(self._api_path):
            return
        if self._is_of_run():
            rates, limit, advice = self._runs_rates, self._runs_limit, ""
        else:
            rates, limit, advice = self._rates, self._limit, " Change it with --rate-limit."
        wait_s = rates.hit(request.remote_addr or "")
        if wait_s > 0:
            raise TooManyRequests(
                f"Rate limit exceeded: {limit} for each client.{advice}", retry_after=max(1, math.ceil(wait_s))
            )

    def _is_of_run(self) -> bool:
        """Return whether the request is one that the client of a run makes: it begins, goes on, or wants its report."""
        path = request.path
        if not path.startswith(self._runs_path):
            return False
        return request.method in RUN_METHODS or path.endswith("/report")

    def _check_origin(self) -> None:
        """Refuse requests from pages of other sites (CSRF).

        Browsers send Sec-Fetch-Site over HTTPS and to loopback only, and older ones not at all, but Origin always.
        A page of another site cannot set X-Forwarded-Host: the browser asks for permission first, which fails.
        """
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site is not None:
            is_cross_site = site not in SAME_SITE
        else:
            is_cross_site = origin is not None and not self._is_own_origin(origin)
        if is_cross_site:
            raise Forbidden("Cross-site requests are not allowed.")

    def _is_own_origin(self, origin: str) -> bool:
        return urlsplit(origin).netloc in {request.host, *self._get_forwarded_hosts()}

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
