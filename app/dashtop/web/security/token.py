"""The token: sent as a Bearer header, or once as ?token=, which is traded for a cookie."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from flask import redirect
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.wrappers import Response

PARAMETER = "token"
BYTES = 24


def made() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(BYTES)


class Token:
    """The token of one server. Its cookie has a name of its own, since all ports of a host share cookies."""

    def __init__(self, token: str, *, path: str) -> None:
        self._token = token.encode()
        self._path = path
        self._cookie = "dashtop-" + hashlib.sha256(b"name:" + self._token).hexdigest()[:8]
        self._proof = hmac.new(self._token, b"dashtop cookie", hashlib.sha256).hexdigest()

    def check(self, request: Request) -> Response | None:
        """Return None for a request that may pass, or a redirect that sets the cookie. Raises Unauthorized."""
        given = request.args.get(PARAMETER)
        if given is not None and request.method in {"GET", "HEAD"} and self._is(given):
            return self._traded(request)
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is(bearer.strip()):
            return None
        if hmac.compare_digest(request.cookies.get(self._cookie, "").encode(), self._proof.encode()):
            return None
        raise Unauthorized(
            "A token is needed: open the address that was printed at start, or send Authorization: Bearer TOKEN.",
            www_authenticate=WWWAuthenticate("bearer", {"realm": "dashtop"}),
        )

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)

    def _traded(self, request: Request) -> Response:
        rest = urlencode([(name, value) for name, value in request.args.items(multi=True) if name != PARAMETER])
        # One slash: an address that begins with two would lead to another server.
        path = quote("/" + (request.root_path + request.path).lstrip("/"), safe="/@")
        response = redirect(f"{path}?{rest}" if rest else path)
        response.set_cookie(
            self._cookie, self._proof, path=self._path, httponly=True, samesite="Lax", secure=request.is_secure
        )
        return response
