"""Every route x what is wrong with a request: the documented answer, as JSON, whoever would have answered."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.web.api.endpoints import ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from dashtop.app import Dashtop

V1 = "/api/v1/system"
API = [V1 + call.path.replace("{gpu_id}", "0") for call in ENDPOINTS] + [V1 + "/openapi.json", V1 + "/docs"]
PAGES = [
    "/",
    "/embed/compact",
    "/docs",
    "/healthz",
    "/readyz",
    "/metrics",
    "/_dash-layout",
    "/_dash-dependencies",
    "/no/such/page",
]
ROUTES = [*API, *PAGES]
UPDATE = "/_dash-update-component"
# The callback that answers each tick of the page.
TICK: dict[str, Any] = {
    "output": "..live.data...figures.data..",
    "outputs": [{"id": "live", "property": "data"}, {"id": "figures", "property": "data"}],
    "inputs": [{"id": "request", "property": "data", "value": {"n": 1}}],
    "changedPropIds": ["request.data"],
}


def is_error(answer: Any, status: int) -> bool:
    return answer.status_code == status and answer.is_json and set(answer.get_json()) == {"detail"}


@pytest.fixture
def client(plain: Dashtop) -> FlaskClient:
    return plain.server.test_client()


@pytest.mark.parametrize("route", ROUTES)
def test_a_foreign_host(client: FlaskClient, route: str) -> None:
    assert is_error(client.get(route, headers={"Host": "evil.example"}), 403)
    assert is_error(client.get(route, headers={"Host": "127.0.0.1.evil.example:8050"}), 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_wrong_method(client: FlaskClient, route: str, method: str) -> None:
    answer = client.open(route, method=method)
    assert is_error(answer, 405)
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("route", [*ROUTES, UPDATE])
def test_oversized(client: FlaskClient, route: str) -> None:
    assert is_error(client.get(f"{route}?{'a' * 5000}"), 414)
    assert is_error(client.post(route, data=b"x" * (2**20 + 1), content_type="application/json"), 413)


@pytest.mark.parametrize("route", API)
def test_malformed(client: FlaskClient, route: str) -> None:
    for query in ("%00=%ff", "gpu_id=%F0%9F%92%A9", "gpu_id=-1", "gpu_id[]=0"):
        answer = client.get(f"{route}?{query}")
        unasked = route.endswith(("/openapi.json", "/docs"))
        assert unasked or is_error(answer, 422), (query, answer.text)


@pytest.mark.parametrize("route", PAGES)
def test_pages_take_no_harm_from_what_is_malformed(client: FlaskClient, route: str) -> None:
    for query in ("%00=%ff", "gpu=%F0%9F%92%A9", "range=-1", "theme[]=0"):
        answer = client.get(f"{route}?{query}")
        assert answer.status_code == client.get(route).status_code, query
        assert answer.content_type == client.get(route).content_type, query


@pytest.mark.parametrize("route", ROUTES)
def test_another_prefix(client: FlaskClient, route: str) -> None:
    assert is_error(client.get("/gpus" + route), 404)


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api//", "/api//v1", "/api/v1//x", "/a/api/", "/a/api//b", "/api/%00"]
)
def test_nothing_under_api_is_a_page(client: FlaskClient, path: str) -> None:
    assert is_error(client.get(path), 404)


@pytest.mark.parametrize("path", ["nothing/x.js", "dash/nothing.js", "dash/../../x", "dash/%00"])
def test_files_that_are_not_there_are_404(client: FlaskClient, path: str) -> None:
    assert is_error(client.get("/_dash-component-suites/" + path), 404)
    assert is_error(client.get("/assets/" + path), 404)


def test_every_answer_has_its_headers(client: FlaskClient) -> None:
    for route in ROUTES:
        headers = client.get(route, buffered=False).headers
        assert headers["X-Content-Type-Options"] == "nosniff", route
        ours = "'none'" if headers["Content-Type"].startswith("application/json") else "'self'"
        assert f"frame-ancestors {ours}" in headers["Content-Security-Policy"]
        assert "unsafe-eval" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert not [name for name in headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118


def test_files_of_the_page_may_be_kept(client: FlaskClient) -> None:
    page = client.get("/").text
    scripts = [script for script in re.findall(r'src="([^"]+)"', page) if "_dash-component-suites" in script]
    assert scripts
    assert any("max-age=31536000" in client.get(script).headers["Cache-Control"] for script in scripts)


def test_a_good_callback_is_answered(client: FlaskClient) -> None:
    answer = client.post(UPDATE, json=TICK)
    assert answer.status_code == 200
    assert answer.get_json()["response"]["live"]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TICK.items() if key != name}


MALFORMED = [
    b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"output":' + b"[" * 100_000,
    b'{"output": ' + b"9" * 5000 + b"}",
    *(json.dumps(body).encode() for body in (
        without("output"), without("inputs"), without("outputs"),
        {**TICK, "output": 7}, {**TICK, "output": "nothing.children"}, {**TICK, "output": "request.data"},
        {**TICK, "output": ["live.data"]}, {**TICK, "output": {"id": "live"}},
        {**TICK, "inputs": []}, {**TICK, "inputs": {}}, {**TICK, "inputs": "x"}, {**TICK, "inputs": [None]},
        {**TICK, "inputs": [[]]}, {**TICK, "inputs": [{"id": "request"}]}, {**TICK, "inputs": TICK["inputs"] * 2},
        {**TICK, "inputs": [{"id": ["request"], "property": "data"}]},
        {**TICK, "inputs": [{"id": {}, "property": "data"}]},
        {**TICK, "inputs": [{"id": "request", "property": 5}]}, {**TICK, "outputs": None}, {**TICK, "outputs": {}},
        {**TICK, "outputs": [TICK["outputs"]]}, {**TICK, "outputs": TICK["outputs"][:1]},
        {**TICK, "outputs": 7}, {**TICK, "state": [1]},
        {**TICK, "state": None}, {**TICK, "changedPropIds": 5}, {**TICK, "changedPropIds": [5]},
    )),
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: body[:40].decode("latin-1"))
def test_malformed_callbacks_are_400(client: FlaskClient, body: bytes) -> None:
    assert is_error(client.post(UPDATE, data=body, content_type="application/json"), 400)


@pytest.mark.parametrize(
    "value", [None, 7, "x", [], [[]], {"gpu": {}}, {"versions": 5}, {"range": ["1h"]}, {"n": 1e308}]
)
def test_odd_values_of_a_good_callback_are_answered(client: FlaskClient, value: object) -> None:
    body = {**TICK, "inputs": [{"id": "request", "property": "data", "value": value}]}
    assert client.post(UPDATE, json=body).status_code in {200, 204}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200), ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://portal.example"}, 200),
        ({"Origin": "http://localhost"}, 200), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
    ],
)  # fmt: skip
def test_other_sites_may_not_post(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    assert client.post(UPDATE, json=TICK, headers=headers).status_code == status
    assert is_error(client.post("/", headers=headers), 405 if status == 200 else status)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_only_json_is_taken(client: FlaskClient, content_type: str | None) -> None:
    assert is_error(client.post(UPDATE, data=json.dumps(TICK), content_type=content_type), 415)


# --- settings -------------------------------------------------------------------------------------------------------


def test_names_may_be_added(start: Callable[..., Dashtop]) -> None:
    client = start(allowed_hosts="portal.example, other.example").server.test_client()
    assert client.get("/healthz", headers={"Host": "other.example"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403


def test_who_may_embed(start: Callable[..., Dashtop]) -> None:
    client = start(frame_ancestors="'self' https://portal.example").server.test_client()
    assert "frame-ancestors 'self' https://portal.example" in client.get("/").headers["Content-Security-Policy"]


def test_the_rate_is_limited_for_calls_alone(start: Callable[..., Dashtop]) -> None:
    client = start(rate_limit="3/minute").server.test_client()
    route = V1 + "/metrics"
    assert [client.get(route).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = client.get(V1 + "/monitoring/all")
    assert is_error(refused, 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    free = [*PAGES, "/assets/page.css"]
    assert 429 not in [client.get(path, buffered=True).status_code for path in free for _ in range(4)]
    assert client.post(UPDATE, json=TICK).status_code == 200
    assert client.get(route, environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 200
    forged = {"X-Forwarded-For": "192.0.2.10"}
    assert client.get(route, headers=forged).status_code == 429


def test_clients_behind_a_trusted_proxy_are_told_apart(start: Callable[..., Dashtop]) -> None:
    client = start(rate_limit="1/minute", trusted_proxies=1).server.test_client()

    def status(forwarded: str) -> int:
        return client.get(V1 + "/metrics", headers={"X-Forwarded-For": forwarded}).status_code

    assert [status("192.0.2.1"), status("192.0.2.2"), status("192.0.2.1")] == [200, 200, 429]
    assert status("198.51.100.7, 192.0.2.1") == 429, "only what the trusted proxy itself has added counts"


# --- token ----------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_everywhere_but_health(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse").server.test_client()
    for route in ROUTES:
        expected = 200 if route in {"/healthz", "/readyz"} else 401
        answer = client.get(route)
        assert answer.status_code == expected, route
        assert expected == 200 or (is_error(answer, 401) and answer.headers["WWW-Authenticate"].startswith("Bearer"))
    assert is_error(client.post(UPDATE, json=TICK), 401)


def test_the_header_opens(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse").server.test_client()
    good = {"Authorization": "Bearer correct-horse"}
    for route in ("/", "/metrics", V1 + "/monitoring/all"):
        assert client.get(route, headers=good).status_code == 200
        for bad in ("Bearer correct-hors", "Bearer", "Basic correct-horse", "correct-horse", "Bearer \xff"):
            assert client.get(route, headers={"Authorization": bad}).status_code == 401


def test_the_address_opens_once_and_leaves_a_cookie(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse").server.test_client()
    assert client.get("/?token=wrong-horse").status_code == 401
    answer = client.get("/?view=compare&token=correct-horse")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/?view=compare")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "correct-horse" not in cookie
    assert client.get("/").status_code == 200
    assert client.post(UPDATE, json=TICK).status_code == 200


def test_the_redirect_stays_here(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse").server.test_client()
    answer = client.get("//evil.example/?token=correct-horse", base_url="http://localhost")
    assert not answer.headers["Location"].startswith("//")


@pytest.mark.parametrize(
    ("host", "needed"), [("127.0.0.1", False), ("::1", False), ("192.0.2.1", True), ("0.0.0.0", True)]
)
def test_a_token_is_made_where_others_can_connect(start: Callable[..., Dashtop], host: str, needed: bool) -> None:
    dashtop = start(host=host)
    client = dashtop.server.test_client()
    assert client.get("/").status_code == (401 if needed else 200)
    assert dashtop.path.startswith("/?token=") == needed
    client.get(dashtop.path)
    assert client.get("/").status_code == 200


def test_no_auth_is_said_aloud(start: Callable[..., Dashtop], caplog: pytest.LogCaptureFixture) -> None:
    assert start(host="0.0.0.0", auth="false").server.test_client().get("/").status_code == 200
    assert "--no-auth" in caplog.text


# --- prefix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/gpu/", "/user/a%40b/gpus/"])
def test_the_prefix_is_in_every_address(start: Callable[..., Dashtop], prefix: str) -> None:
    client = start(url_prefix=prefix, token="correct-horse").server.test_client()
    good = {"Authorization": "Bearer correct-horse"}
    written, prefix = prefix, prefix.replace("%40", "@")
    page = client.get(prefix, headers=good).text
    links = [part.split('"')[0] for name in ("src", "href") for part in page.split(f'{name}="')[1:]]
    own = [link for link in links if link.startswith("/")]
    assert len(own) > 5
    for link in own:
        assert link.startswith(prefix), link
        with client.get(link, headers=good) as answer:
            assert answer.status_code == 200
    assert client.get(written[:-1], headers=good).headers["Location"].endswith(prefix)
    assert client.get(prefix + "?token=correct-horse").headers["Location"] == prefix
    assert client.get(prefix + "api/v1/system/docs", headers=good).headers["Location"] == prefix + "docs"
    document = client.get(prefix + "api/v1/system/openapi.json", headers=good).get_json()
    assert document["servers"] == [{"url": prefix + "api/v1/system"}]


def test_a_proxy_may_cut_the_prefix_off_or_leave_it(start: Callable[..., Dashtop]) -> None:
    client = start(url_prefix="gpu").server.test_client()
    for before in ("/gpu", ""):
        assert client.get(before + V1 + "/monitoring/all").status_code == 200
        assert client.get(before + "/healthz").status_code == 200
        assert client.post(before + UPDATE, json=TICK).status_code == 200
        assert is_error(client.get(before + "/api/nothing"), 404)
    assert is_error(client.get("/other" + V1 + "/metrics"), 404)


def test_mounted_in_another_application(start: Callable[..., Dashtop]) -> None:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    host = Flask("host")

    @host.get("/")
    def _index() -> str:
        return "the host's own page"

    mounted = start(url_prefix="/gpu/").server
    host.wsgi_app = DispatcherMiddleware(host.wsgi_app, {"/gpu": mounted.wsgi_app})  # type: ignore[method-assign]
    client = host.test_client()
    assert client.get("/").text == "the host's own page"
    assert client.get("/gpu/api/v1/system/monitoring/all").status_code == 200
    assert "/gpu/_dash-component-suites" in client.get("/gpu/").text
    assert "Content-Security-Policy" not in client.get("/").headers
