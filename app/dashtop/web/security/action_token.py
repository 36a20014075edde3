"""The token that actions on processes need, beside the access token. It is accepted in a header only."""

from __future__ import annotations

import hmac
import math
from typing import TYPE_CHECKING, Final

from dashtop.model.action import Refusal
from dashtop.web.security.guesses import GuessLimiter
from dashtop.web.security.token import has_token_in_path

if TYPE_CHECKING:
    from flask import Request

HEADER: Final = "X-Dashtop-Action-Token"


class ActionTokenAuth:
    """Checks the action token of requests. `token` None: none is right. Thread-safe."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token is not None else None
        self._guesses = GuessLimiter(name="action token")

    def find_refusal(self, request: Request) -> tuple[Refusal, int] | None:
        """Return why a request may not act, and after how many seconds its tokens count; None if it may.

        A wrong token is counted as those for access are: after some, the client has to wait.
        """
        if has_token_in_path(request):
            return Refusal.EMBEDDED, 0
        presented = request.headers.get(HEADER, "")
        if not presented:
            return Refusal.NO_TOKEN, 0
        client = request.remote_addr or ""
        wait_s = self._guesses.get_wait_s(client, [presented])
        if wait_s > 0:
            return Refusal.TOO_MANY_TOKENS, math.ceil(wait_s)
        if self._token is None or not hmac.compare_digest(presented.encode(), self._token):
            self._guesses.add(client, presented)
            return Refusal.WRONG_TOKEN, 0
        return None
