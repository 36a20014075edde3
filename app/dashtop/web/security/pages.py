"""Pages for people whose request is refused: a form for the access token, and what to do about a host name."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from flask import Response

if TYPE_CHECKING:
    from flask import Request

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>TITLE · dashtop</title>
<style>
  html {font: 15px/1.5 system-ui, sans-serif; color-scheme: light dark}
  body {margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText}
  main {box-sizing: border-box; width: 100%; max-width: 26rem; padding: 1.5rem}
  h1 {margin: 0 0 .5rem; font-size: 1.15rem}
  p {margin: 0 0 1rem}
  label {display: block; margin-bottom: .25rem; font-weight: 600}
  form div {display: flex; gap: .5rem}
  input, button {font: inherit; padding: .4rem .7rem; border: 1px solid GrayText; border-radius: 6px}
  input {flex: 1; min-width: 0}
  code {font-size: .9em; overflow-wrap: anywhere}
</style>
</head>
<body><main><h1>TITLE</h1>CONTENT</main></body>
</html>
"""


def is_for_person(request: Request) -> bool:
    """Return whether a browser requests a page to show, not a program or a script data."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def build_token_form(request: Request, parameter: str) -> Response:
    """Return status 401 and a form that requests the same address with the token as `parameter`."""
    hint = '<p role="alert">This token is not valid.</p>' if parameter in request.args else ""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in request.args.items(multi=True)
        if name != parameter
    )
    content = (
        f"{hint}<p>dashtop printed it at startup, as the end of the address after <code>?token=</code>.</p>"
        f'<form>{hidden}<label for="token">Access token</label><div><input id="token" name="{parameter}" '
        'type="password" autocomplete="current-password" required autofocus><button>Open</button></div></form>'
    )
    return _build_page("Access token required", content, 401)


def build_host_page(host: str) -> Response:
    """Return status 403 and how to allow this host name."""
    content = (
        f"<p>This server does not accept requests for <code>{escape(host)}</code>: a page of another site could have "
        "directed the browser here.</p><p>If the name is right, start dashtop with "
        f"<code>--allowed-hosts {escape(host.partition(':')[0])}</code> or with an access token "
        "(<code>--token</code>).</p>"
    )
    return _build_page("Host name not allowed", content, 403)


def build_wait_page(wait_s: int) -> Response:
    """Return status 429 and how long to wait after too many wrong tokens."""
    content = f"<p>Too many wrong access tokens came from this address. Reload this page in {wait_s} seconds.</p>"
    response = _build_page("Too many attempts", content, 429)
    response.headers["Retry-After"] = str(wait_s)
    return response


def _build_page(title: str, content: str, status: int) -> Response:
    return Response(_PAGE.replace("TITLE", title).replace("CONTENT", content), status)
