"""The token: sent as a Bearer header, or once as ?token=, which is traded for a cookie."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from flask import redirect
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Request
    from werkzeug.wrappers import Response

PARAMETER = "token"
BYTES = 24
FILE = "token"
_GENERATED = re.compile(r"[\w-]{32,128}", re.ASCII)

log = logging.getLogger(__name__)


def generate_token() -> str:
    """Return a random token of 192 bits."""
    return secrets.token_urlsafe(BYTES)


def load_token(folder: Path) -> str:
    """Return the token in `folder`, which is generated at the first call.

    A file that another user may have written or can read is never used, nor changed: the token is then generated anew
    at each start, with a warning.
    """
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read_token(path) or _create_token(path)
    except OSError as error:
        log.warning(
            "The access token cannot be kept in %s (%s): it changes with each start and differs between workers."
            " Set one with --token or DASHTOP_TOKEN.",
            path,
            error.strerror or error,
        )
        return generate_token()


def _read_token(path: Path) -> str | None:
    """Return the token in the file, None if there is no file. Raises OSError if it is not this user's alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError("it must be a file of this user with mode 0600")
        token = file.read(200).strip()
    if not _GENERATED.fullmatch(token):
        raise PermissionError("it holds no token of dashtop: delete it")
    return token


def _create_token(path: Path) -> str:
    """Write a new token, and return it or the one that another process has written meanwhile."""
    token = generate_token()
    unfinished = path.with_name(f"{FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token}\n")
        os.link(unfinished, path)  # unlike a rename, it fails if the file exists
    except FileExistsError:
        return _read_token(path) or token
    finally:
        unfinished.unlink()
    return token


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
