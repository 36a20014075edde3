"""Every route with every kind of refused request: the response is the documented error, as JSON."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from itsdangerous import TimestampSigner

from dashtop.web.api.endpoints import ENDPOINTS
from dashtop.web.security.token import SESSION_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from dashtop.app import Dashtop

V1 = "/api/v1/system"
READING = [endpoint for endpoint in ENDPOINTS if endpoint.method == "GET"]
API = [V1 + endpoint.path.replace("{gpu_id}", "0") for endpoint in READING] + [V1 + "/openapi.json", V1 + "/docs"]
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
# The request that the page sends at each tick.
TICK: dict[str, Any] = {
    "output": "..live.data...figures.data..",
    "outputs": [{"id": "live", "property": "data"}, {"id": "figures", "property": "data"}],
    "inputs": [{"id": "request", "property": "data", "value": {"n": 1}}],
    "changedPropIds": ["request.data"],
}


def is_error(response: Any, status: int) -> bool:
    return response.status_code == status and response.is_json and set(response.get_json()) == {"detail"}


@pytest.fixture
def client(plain: Dashtop) -> FlaskClient:
    return plain.server.test_client()


@pytest.mark.parametrize("route", ROUTES)
def test_foreign_host_is_403(client: FlaskClient, route: str) -> None:
    assert is_error(client.get(route, headers={"Host": "evil.example"}), 403)
    assert is_error(client.get(route, headers={"Host": "127.0.0.1.evil.example:8050"}), 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("route", ROUTES)
def test_wrong_method_is_405(client: FlaskClient, route: str, method: str) -> None:
    allowed = {endpoint.method for endpoint in ENDPOINTS if route.endswith(endpoint.path)} or {"GET"}
    response = client.open(route, method=method)
    if method in allowed:
        assert response.status_code in {404, 415, 422}, "it takes the method, and refuses the empty request"
    else:
        assert is_error(response, 405)
        assert allowed <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("route", [*ROUTES, UPDATE])
def test_oversized_request_is_413_or_414(client: FlaskClient, route: str) -> None:
    assert is_error(client.get(f"{route}?{'a' * 5000}"), 414)
    assert is_error(client.post(route, data=b"x" * (2**20 + 1), content_type="application/json"), 413)


@pytest.mark.parametrize("route", API)
def test_malformed_parameter_is_422(client: FlaskClient, route: str) -> None:
    for query in ("%00=%ff", "gpu_id=%F0%9F%92%A9", "gpu_id=-1", "gpu_id[]=0"):
        response = client.get(f"{route}?{query}")
        takes_no_parameters = route.endswith(("/openapi.json", "/docs"))
        assert takes_no_parameters or is_error(response, 422), (query, response.text)


@pytest.mark.parametrize("route", PAGES)
def test_pages_ignore_malformed_parameters(client: FlaskClient, route: str) -> None:
    for query in ("%00=%ff", "gpu=%F0%9F%92%A9", "range=-1", "theme[]=0"):
        response = client.get(f"{route}?{query}")
        assert response.status_code == client.get(route).status_code, query
        assert response.content_type == client.get(route).content_type, query


@pytest.mark.parametrize("route", ROUTES)
def test_unknown_prefix_is_404(client: FlaskClient, route: str) -> None:
    assert is_error(client.get("/gpus" + route), 404)


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api//", "/api//v1", "/api/v1//x", "/a/api/", "/a/api//b", "/api/%00"]
)
def test_unknown_path_below_api_is_404(client: FlaskClient, path: str) -> None:
    assert is_error(client.get(path), 404)


@pytest.mark.parametrize("path", ["nothing/x.js", "dash/nothing.js", "dash/../../x", "dash/%00"])
def test_missing_file_is_404(client: FlaskClient, path: str) -> None:
    assert is_error(client.get("/_dash-component-suites/" + path), 404)
    assert is_error(client.get("/assets/" + path), 404)


def test_every_response_has_security_headers(client: FlaskClient) -> None:
    for route in ROUTES:
        headers = client.get(route, buffered=False).headers
        assert headers["X-Content-Type-Options"] == "nosniff", route
        ours = "'none'" if headers["Content-Type"].startswith("application/json") else "'self'"
        assert f"frame-ancestors {ours}" in headers["Content-Security-Policy"]
        assert "unsafe-eval" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert not [name for name in headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118


def test_versioned_scripts_can_be_cached(client: FlaskClient) -> None:
    page = client.get("/").text
    scripts = [script for script in re.findall(r'src="([^"]+)"', page) if "_dash-component-suites" in script]
    assert scripts
    assert any("max-age=31536000" in client.get(urljoin("/", each)).headers["Cache-Control"] for each in scripts)


def test_valid_callback_is_answered(client: FlaskClient) -> None:
    response = client.post(UPDATE, json=TICK)
    assert response.status_code == 200
    assert response.get_json()["response"]["live"]


def remove_field(name: str) -> dict[str, Any]:
    return {key: value for key, value in TICK.items() if key != name}


MALFORMED = [
    b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"output":' + b"[" * 100_000,
    b'{"output": ' + b"9" * 5000 + b"}",
    *(json.dumps(body).encode() for body in (
        remove_field("output"), remove_field("inputs"), remove_field("outputs"),
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
def test_malformed_callback_is_400(client: FlaskClient, body: bytes) -> None:
    assert is_error(client.post(UPDATE, data=body, content_type="application/json"), 400)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "x",
        [],
        [[]],
        {"gpu": {}},
        {"versions": 5},
        {"range": ["1h"]},
        {"n": 1e308},
        {"zoom": [10**30, 10**30 + 10**6]},
        {"zoom": [2**63 - 10**6, 2**63]},
        {"zoom": [-(10**30), 10**30]},
    ],
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
def test_cross_site_post_is_403(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    assert client.post(UPDATE, json=TICK, headers=headers).status_code == status
    assert is_error(client.post("/", headers=headers), 405 if status == 200 else status)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_content_type_is_415(client: FlaskClient, content_type: str | None) -> None:
    assert is_error(client.post(UPDATE, data=json.dumps(TICK), content_type=content_type), 415)


# --- settings -------------------------------------------------------------------------------------------------------


def test_allowed_hosts_setting(start: Callable[..., Dashtop]) -> None:
    client = start(allowed_hosts="portal.example, other.example").server.test_client()
    assert client.get("/healthz", headers={"Host": "other.example"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "forwarded", "status"),
    [
        ("localhost", "monitor.example", 200), ("monitor.example", "monitor.example", 200),
        ("monitor.example", "", 200),
        # nginx passes on the X-Forwarded-Host of the client, Apache appends to it and replaces Host.
        ("evil.example", "localhost", 403), ("127.0.0.1:8050", "localhost, evil.example", 403),
        ("127.0.0.1:8050", "evil.example", 403), ("127.0.0.1:8050", "evil.example,localhost", 403),
        ("localhost", ",", 200),
    ],
)  # fmt: skip
def test_forwarded_host_is_checked_and_does_not_replace_host(
    start: Callable[..., Dashtop], host: str, forwarded: str, status: int
) -> None:
    client = start(trusted_proxies=1, auth="false", allowed_hosts="monitor.example").server.test_client()
    headers = {"Host": host, "X-Forwarded-Host": forwarded}
    assert client.get(V1 + "/metrics", headers=headers).status_code == status
    assert client.get(V1 + "/metrics", headers={**headers, "X-Forwarded-Port": "1"}).status_code == status


def test_origin_may_be_the_host_that_a_proxy_forwards(start: Callable[..., Dashtop]) -> None:
    settings = {"auth": "false", "allowed_hosts": "monitor.example"}
    headers = {"Host": "127.0.0.1:8050", "Origin": "http://monitor.example", "X-Forwarded-Host": "monitor.example"}
    client = start(trusted_proxies=1, **settings).server.test_client()
    assert client.post(UPDATE, json=TICK, headers=headers).status_code == 200
    assert client.post(UPDATE, json=TICK, headers={**headers, "Origin": "http://evil.example"}).status_code == 403
    without_proxy = start(**settings).server.test_client()
    assert without_proxy.post(UPDATE, json=TICK, headers=headers).status_code == 403


def test_frame_ancestors_setting(start: Callable[..., Dashtop]) -> None:
    client = start(frame_ancestors="'self' https://portal.example").server.test_client()
    assert "frame-ancestors 'self' https://portal.example" in client.get("/").headers["Content-Security-Policy"]


def test_servers_of_this_machine_may_embed_a_server_for_this_machine(start: Callable[..., Dashtop]) -> None:
    loopback = "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
    for settings, expected in (
        ({"frame_ancestors": "'none'"}, False),
        ({}, True),
        ({"host": "0.0.0.0", "auth": "false"}, False),
        ({"frame_ancestors": "'self'"}, False),
    ):
        policy = start(**settings).server.test_client().get("/").headers["Content-Security-Policy"]
        assert (loopback in policy) == expected


def test_rate_limit_applies_to_api_only(start: Callable[..., Dashtop]) -> None:
    client = start(rate_limit="3/minute").server.test_client()
    route = V1 + "/metrics"
    assert [client.get(route).status_code for _ in range(4)] == [200, 200, 200, 429]
    limited = client.get(V1 + "/monitoring/all")
    assert is_error(limited, 429)
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    unlimited = [*PAGES, "/assets/page.css"]
    assert 429 not in [client.get(path, buffered=True).status_code for path in unlimited for _ in range(4)]
    assert client.post(UPDATE, json=TICK).status_code == 200
    assert client.get(route, environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 200
    spoofed = {"X-Forwarded-For": "192.0.2.10"}
    assert client.get(route, headers=spoofed).status_code == 429


def test_runs_have_a_rate_limit_of_their_own(start: Callable[..., Dashtop]) -> None:
    client = start(rate_limit="1/minute").server.test_client()
    route = V1 + "/runs"
    assert [client.post(route, json={"name": "a"}).status_code for _ in range(30)] == [201] * 30
    assert [client.get(f"{route}/ffffffffffffffff/report").status_code for _ in range(3)] == [404] * 3
    assert [client.get(route).status_code for _ in range(2)] == [200, 429]
    answers = (client.post(route, json={}) for _ in range(1000))
    limited = next(answer for answer in answers if answer.status_code != 422)
    assert is_error(limited, 429)
    assert limited.headers["Retry-After"] == "1"


def test_rate_limit_distinguishes_clients_of_trusted_proxy(start: Callable[..., Dashtop]) -> None:
    client = start(rate_limit="1/minute", trusted_proxies=1, auth="false").server.test_client()

    def status(forwarded: str) -> int:
        return client.get(V1 + "/metrics", headers={"X-Forwarded-For": forwarded}).status_code

    assert [status("192.0.2.1"), status("192.0.2.2"), status("192.0.2.1")] == [200, 200, 429]
    assert status("198.51.100.7, 192.0.2.1") == 429, "only the address added by the trusted proxy counts"


# --- token ----------------------------------------------------------------------------------------------------------


def test_token_is_required_except_for_health_checks(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    for route in ROUTES:
        expected = 200 if route in {"/healthz", "/readyz"} else 401
        response = client.get(route)
        assert response.status_code == expected, route
        assert expected == 200 or (
            is_error(response, 401) and response.headers["WWW-Authenticate"].startswith("Bearer")
        )
    assert is_error(client.post(UPDATE, json=TICK), 401)


def test_bearer_header_authenticates(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    authorization = {"Authorization": "Bearer correct-horse-battery"}
    for route in ("/", "/metrics", V1 + "/monitoring/all"):
        assert client.get(route, headers=authorization).status_code == 200
        for bad in (
            "Bearer correct-horse-batter",
            "Bearer",
            "Basic correct-horse-battery",
            "correct-horse-battery",
            "Bearer \xff",
        ):
            assert client.get(route, headers={"Authorization": bad}).status_code == 401


def test_token_parameter_sets_a_cookie(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    assert client.get("/?token=wrong-horse").status_code == 401
    response = client.get("/?view=compare&token=correct-horse-battery")
    assert (response.status_code, response.headers["Location"]) == (302, "./?view=compare")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "correct-horse-battery" not in cookie
    assert client.get("/").status_code == 200
    assert client.post(UPDATE, json=TICK).status_code == 200


def test_cookie_expires(start: Callable[..., Dashtop], monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(token="correct-horse-battery").server.test_client(use_cookies=False)
    cookie = client.get("/?token=correct-horse-battery").headers["Set-Cookie"].partition(";")[0]
    signed_at_s = time.time()
    for age_s, status in ((SESSION_S - 60, 200), (SESSION_S + 60, 401), (-60, 401)):
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self, age_s=age_s: int(signed_at_s + age_s))
        assert client.get("/", headers={"Cookie": cookie}).status_code == status, age_s


class SessionClock:
    """Moves the clock that signs and checks cookies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.days = 0.0
        started_s = time.time()
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: int(started_s + 86400 * self.days))


@pytest.fixture
def session_clock(monkeypatch: pytest.MonkeyPatch) -> SessionClock:
    return SessionClock(monkeypatch)


def get_cookies(response: Any) -> list[str]:
    cookies: list[str] = response.headers.getlist("Set-Cookie")
    return cookies


@pytest.mark.parametrize("path", ["/", V1 + "/monitoring/all", "/metrics"])
def test_client_that_comes_back_stays_signed_in(
    start: Callable[..., Dashtop], session_clock: SessionClock, path: str
) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    client.get("/?token=correct-horse-battery")
    for day in range(0, 100, 10):
        session_clock.days = day
        assert client.get(path).status_code == 200
        assert client.post(UPDATE, json=TICK).status_code == 200
    session_clock.days += 31
    assert client.post(UPDATE, json=TICK).status_code == 401


@pytest.mark.parametrize("ancestors", ["'self'", "https://portal.example"])
@pytest.mark.parametrize("headers", [
    {},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/user/ada/proxy/8050"},
])  # fmt: skip
def test_tick_renews_an_old_cookie_with_the_attributes_of_the_first(
    start: Callable[..., Dashtop], session_clock: SessionClock, ancestors: str, headers: dict[str, str]
) -> None:
    server = start(token="correct-horse-battery", frame_ancestors=ancestors, trusted_proxies=1).server
    client = server.test_client(use_cookies=False)
    (first,) = get_cookies(client.get("/?token=correct-horse-battery", headers=headers))
    value, _, attributes = first.partition("; ")
    signed_in = {**headers, "Cookie": value}
    session_clock.days = 14
    assert not get_cookies(client.post(UPDATE, json=TICK, headers=signed_in))
    session_clock.days = 16
    (renewed,) = get_cookies(client.post(UPDATE, json=TICK, headers=signed_in))
    assert renewed.partition("; ")[2] == attributes
    assert renewed.partition("; ")[0] != value
    session_clock.days = 40
    for cookies, status in (
        (value, 401), (renewed, 200), (f"{value}; {renewed}", 200), (f"{renewed}; {value}", 200),
    ):  # fmt: skip
        assert client.get("/", headers={**headers, "Cookie": cookies}).status_code == status


def test_renewed_cookie_goes_only_to_those_who_have_a_valid_one(
    start: Callable[..., Dashtop], session_clock: SessionClock
) -> None:
    server = start(token="correct-horse-battery", embed_token="battery-staple-embed").server
    client = server.test_client(use_cookies=False)
    (cookie,) = get_cookies(client.get("/?token=correct-horse-battery"))
    (embed,) = get_cookies(client.get("/embed/compact?token=battery-staple-embed"))
    old, old_embed = {"Cookie": cookie.partition(";")[0]}, {"Cookie": embed.partition(";")[0]}
    bearer = {"Authorization": "Bearer correct-horse-battery"}
    in_path = "/~correct-horse-battery"
    session_clock.days = 20
    assert get_cookies(client.get("/", headers=old))
    assert get_cookies(client.get("/embed/compact", headers=old_embed))
    assert not get_cookies(client.get("/", headers=old_embed))
    assert not get_cookies(client.get("/", headers=bearer))
    assert not get_cookies(client.get(f"{in_path}/", headers=FOREIGN_HOST))
    assert not get_cookies(client.post(in_path + UPDATE, json=TICK))
    refused = {**old, "Sec-Fetch-Site": "cross-site"}
    assert not get_cookies(client.post(UPDATE, json=TICK, headers=refused))
    assert not get_cookies(client.get("/no/such/page", headers=old))
    with client.get("/assets/page.css", headers=old) as asset:  # any cache may store it
        assert asset.status_code == 200
        assert not get_cookies(asset)
    session_clock.days = 31
    assert not get_cookies(client.get("/", headers=old))
    assert not get_cookies(client.get("/", headers={**old, **bearer}))
    session_clock.days = -1
    assert not get_cookies(client.get("/", headers=old))


def test_each_sign_in_has_a_cookie_that_other_workers_accept(start: Callable[..., Dashtop]) -> None:
    servers = [start(token="correct-horse-battery").server for _ in range(2)]
    values = set()
    for server in servers:
        response = server.test_client().get("/?token=correct-horse-battery")
        name, _, value = response.headers["Set-Cookie"].partition(";")[0].partition("=")
        values.add(value)
        for other in servers:
            client = other.test_client()
            client.set_cookie(name, value)
            assert client.get("/").status_code == 200
            for forged in (value[:-1], value + "x", value.partition(".")[0], "", "..", "\xe9.a.b", value[1:]):
                client.set_cookie(name, forged)
                assert client.get("/").status_code == 401, forged
    assert len(values) == 2
    client = start(token="another-horse-battery").server.test_client()
    client.set_cookie(name, value)
    assert client.get("/").status_code == 401


def test_redirect_stays_on_this_server(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    for path in (
        "//evil.example/",
        "//evil.example",
        "/a/javascript:alert(1)",
        "/%2F%2Fevil.example",
        "/\\evil.example",
    ):
        response = client.get(f"{path}?token=correct-horse-battery", base_url="http://localhost")
        assert response.headers["Location"].startswith("./"), path
        assert "/" not in response.headers["Location"].removeprefix("./"), path


@pytest.mark.parametrize(
    ("host", "needed"), [("127.0.0.1", False), ("::1", False), ("192.0.2.1", True), ("0.0.0.0", True)]
)
def test_token_is_generated_unless_bound_to_loopback(start: Callable[..., Dashtop], host: str, needed: bool) -> None:
    dashtop = start(host=host)
    client = dashtop.server.test_client()
    assert client.get("/").status_code == (401 if needed else 200)
    assert dashtop.path.startswith("/?token=") == needed
    client.get(dashtop.path)
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("proxied", [{"allowed_hosts": "monitor.example"}, {"trusted_proxies": 1}])
def test_token_is_generated_behind_a_proxy(start: Callable[..., Dashtop], proxied: dict[str, Any]) -> None:
    dashtop = start(**proxied)
    client = dashtop.server.test_client()
    assert is_error(client.get(V1 + "/processes"), 401)
    assert client.get(dashtop.path).status_code == 302
    assert client.get(V1 + "/processes").status_code == 200
    assert start(**proxied, auth="false").server.test_client().get("/").status_code == 200


def test_no_auth_logs_a_warning(start: Callable[..., Dashtop], caplog: pytest.LogCaptureFixture) -> None:
    assert start(host="0.0.0.0", auth="false").server.test_client().get("/").status_code == 200
    assert "--no-auth" in caplog.text


FOREIGN_HOST = {"Host": "gpu1.corp.example"}


def test_any_host_name_is_allowed_with_the_token(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    for route in ("/", "/metrics", V1 + "/monitoring/all"):
        bearer = {"Authorization": "Bearer correct-horse-battery", **FOREIGN_HOST}
        assert client.get(route, headers=bearer).status_code == 200
        # A page whose DNS name was rebound to this server has neither token nor cookie.
        assert is_error(client.get(route, headers=FOREIGN_HOST), 401)
    assert is_error(client.get("/healthz", headers=FOREIGN_HOST), 403)
    assert client.get("/?token=correct-horse-battery", base_url="http://gpu1.corp.example").status_code == 302
    assert client.get("/", base_url="http://gpu1.corp.example").status_code == 200


def test_person_gets_a_form_for_the_token(start: Callable[..., Dashtop]) -> None:
    client = start(token="correct-horse-battery", frame_ancestors="https://portal.example").server.test_client()
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = client.get('/embed/compact?gpu=1&x="><script>&token=wrong-horse', headers=browser)
    assert (page.status_code, page.mimetype) == (401, "text/html")
    assert "frame-ancestors 'self' https://portal.example" in page.headers["Content-Security-Policy"]
    assert '<input type="hidden" name="gpu" value="1">' in page.text
    assert "<script>" not in page.text
    assert "not valid" in page.text
    assert "wrong-horse" not in page.text
    assert "not valid" not in client.get("/", headers=browser).text
    assert is_error(client.get(V1 + "/metrics", headers=browser), 401)
    assert is_error(client.post("/", headers=browser), 401)


def test_person_is_told_how_to_allow_a_host_name(plain: Dashtop) -> None:
    page = plain.server.test_client().get("/", headers={"Accept": "text/html", "Host": "<b>.example:8050"})
    assert (page.status_code, page.mimetype) == (403, "text/html")
    assert "--allowed-hosts &lt;b&gt;.example<" in page.text
    assert "<b>" not in page.text


def test_token_parameter_of_another_server_is_ignored(plain: Dashtop, start: Callable[..., Dashtop]) -> None:
    client = plain.server.test_client()
    for route in ROUTES:
        assert client.get(route).status_code == client.get(f"{route}?token=jupyters").status_code, route
    client = start(token="correct-horse-battery").server.test_client()
    bearer = {"Authorization": "Bearer correct-horse-battery"}
    assert client.get(V1 + "/metrics?token=jupyters", headers=bearer).status_code == 200


@pytest.mark.parametrize("ancestors", ["'self'", "https://portal.example"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookie_works_in_frames_of_other_sites_if_they_are_allowed(
    start: Callable[..., Dashtop], ancestors: str, scheme: str
) -> None:
    client = start(token="correct-horse-battery", frame_ancestors=ancestors, trusted_proxies=1).server.test_client()
    proxied = {"X-Forwarded-Proto": scheme}
    cookie = client.get("/embed/compact?token=correct-horse-battery", headers=proxied).headers["Set-Cookie"]
    is_third_party = scheme == "https" and ancestors != "'self'"
    assert ("SameSite=None" in cookie) == ("Partitioned" in cookie) == is_third_party
    assert ("Secure" in cookie) == (scheme == "https")


@pytest.mark.parametrize(
    ("forwarded", "path"),
    [
        ("/user/ada/proxy/8050", "/user/ada/proxy/8050"),
        ("/", "/"), ("", "/"), ("x", "/"), ("/a; Domain=evil.example", "/"), ("//evil.example/", "/"), ("/a b", "/"),
    ],
)  # fmt: skip
def test_forwarded_prefix_sets_the_path_of_the_cookie_only(
    start: Callable[..., Dashtop], forwarded: str, path: str
) -> None:
    client = start(token="correct-horse-battery").server.test_client()
    response = client.get("/?token=correct-horse-battery", headers={"X-Forwarded-Prefix": forwarded})
    assert f"; Path={path}" in f"{response.headers['Set-Cookie']};"
    assert "evil.example" not in response.headers["Set-Cookie"]
    assert response.headers["Location"] == "./"
    spoofed = {"X-Forwarded-Prefix": forwarded, "X-Forwarded-Host": "localhost", "Host": "evil.example"}
    assert is_error(client.get("/", headers=spoofed), 401)


@pytest.mark.parametrize("prefix", ["/", "/gpu/"])
def test_token_in_the_path_needs_no_cookie(start: Callable[..., Dashtop], prefix: str) -> None:
    server = start(token="correct-horse-battery", embed_token="battery-staple-embed", url_prefix=prefix).server
    base = f"{prefix}~correct-horse-battery"
    for route in ("/", "/metrics", V1 + "/monitoring/all", "/embed/compact", "/assets/page.css"):
        with server.test_client().get(base + route, headers=FOREIGN_HOST) as response:
            assert response.status_code == 200, route
    client = server.test_client()
    assert client.post(base + UPDATE, json=TICK).status_code == 200
    assert client.post(base + UPDATE, json=TICK, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    page = client.get(f"{base}/embed/compact")
    assert "correct-horse-battery" not in page.text
    assert client.get(f"{prefix}~battery-staple-embed/embed/compact").status_code == 200
    assert client.get(f"{prefix}~battery-staple-embed/metrics").status_code == 401
    for wrong in (
        "~",
        "~correct-horse-batter/",
        "~correct-horse-batteryx/",
        "~correct-horse-battery",
        "~correct-horse-battery~/",
        "x/~correct-horse-battery/",
    ):
        assert client.get(prefix + wrong).status_code == 401, wrong
    assert client.get("/").status_code == 401 or prefix != "/"


@pytest.mark.parametrize("prefix", ["/", "/tools/gpu/"])
def test_service_worker_needs_the_token_and_is_not_kept_by_caches(start: Callable[..., Dashtop], prefix: str) -> None:
    client = start(token="correct-horse-battery", url_prefix=prefix).server.test_client()
    assert client.get(f"{prefix}sw.js").status_code == 401
    assert client.get(f"{prefix}?token=correct-horse-battery").status_code == 302
    response = client.get(f"{prefix}sw.js")
    assert response.status_code == 200
    assert response.mimetype == "text/javascript"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Service-Worker-Allowed"] == "./"
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]


def test_embed_token_opens_embeds_only(start: Callable[..., Dashtop]) -> None:
    server = start(token="correct-horse-battery", embed_token="battery-staple-embed").server
    bearer = {"Authorization": "Bearer battery-staple-embed"}
    opened = {"/embed/compact", "/_dash-layout", "/_dash-dependencies"}
    for route in [*ROUTES, "/", "/embed/", "/assets/page.css", "/assets/../"]:
        public = route in {"/healthz", "/readyz"}
        allowed = public or route in opened or route.startswith(("/embed", "/assets/page.css"))
        with server.test_client().get(route, headers=bearer) as response:
            assert (response.status_code == 200) == allowed, route
    client = server.test_client()
    assert client.get("/?token=battery-staple-embed").status_code == 401
    assert client.get("/embed/compact?token=battery-staple-embed").status_code == 302
    assert client.get("/embed/compact").status_code == 200
    assert client.post(UPDATE, json=TICK).status_code == 200
    for route in ("/", "/metrics", V1 + "/processes"):
        assert client.get(route).status_code == 401
    assert client.get("/embed/../metrics").status_code == 404


def test_embed_token_alone_protects_the_rest(start: Callable[..., Dashtop]) -> None:
    dashtop = start(embed_token="battery-staple-embed")
    client = dashtop.server.test_client()
    assert client.get("/").status_code == 401
    assert client.get(dashtop.path).status_code == 302


def test_user_named_by_the_proxy_is_shown_and_logged(
    start: Callable[..., Dashtop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = start(auth_header="X-Forwarded-User", trusted_proxies=1, auth="false").server.test_client()
    hostile = {"X-Forwarded-User": "ada <b>\u202e" + "x" * 200}
    client.get("/", headers={"Sec-Fetch-Mode": "navigate", **hostile})
    assert "ada <b>\ufffdx" in caplog.text
    assert "\u202e" not in caplog.text
    assert "x" * 100 not in caplog.text
    layout = client.get("/_dash-layout", headers={"Sec-Fetch-Mode": "cors", **hostile})
    assert "Signed in as ada" in layout.text
    assert "Signed in" not in client.get("/_dash-layout").text
    assert len([each for each in caplog.messages if "opened" in each]) == 2


# --- prefix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/gpu/", "/user/a%40b/gpus/"])
def test_every_address_of_a_page_is_relative(start: Callable[..., Dashtop], prefix: str) -> None:
    client = start(url_prefix=prefix, token="correct-horse-battery").server.test_client()
    authorization = {"Authorization": "Bearer correct-horse-battery"}
    encoded, prefix = prefix, prefix.replace("%40", "@")
    page = client.get(prefix, headers=authorization).text
    links = [part.split('"')[0] for name in ("src", "href") for part in page.split(f'{name}="')[1:]]
    internal = [link for link in links if not link.startswith("data:")]
    assert len(internal) > 5
    for link in internal:
        assert link.startswith("./"), link
        with client.get(urljoin(prefix, link), headers=authorization) as response:
            assert response.status_code == 200
    assert client.get(encoded[:-1], headers=authorization).headers["Location"].endswith(prefix)
    assert client.get(prefix + "?token=correct-horse-battery").headers["Location"] == "./"
    documentation = prefix + "api/v1/system/docs"
    location = client.get(documentation, headers=authorization).headers["Location"]
    assert urljoin(documentation, location) == prefix + "docs"
    description = prefix + "api/v1/system/openapi.json"
    servers = client.get(description, headers=authorization).get_json()["servers"]
    assert [urljoin(description, server["url"]) for server in servers] == [prefix + "api/v1/system"]


def test_proxy_may_remove_or_keep_the_prefix(start: Callable[..., Dashtop]) -> None:
    client = start(url_prefix="gpu").server.test_client()
    for before in ("/gpu", ""):
        assert client.get(before + V1 + "/monitoring/all").status_code == 200
        assert client.get(before + "/healthz").status_code == 200
        assert client.post(before + UPDATE, json=TICK).status_code == 200
        assert is_error(client.get(before + "/api/nothing"), 404)
    assert is_error(client.get("/other" + V1 + "/metrics"), 404)


def test_mounting_in_another_application(start: Callable[..., Dashtop]) -> None:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    outer = Flask("outer")

    @outer.get("/")
    def _index() -> str:
        return "page of the host application"

    mounted = start(url_prefix="/gpu/").server
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/gpu": mounted.wsgi_app})  # type: ignore[method-assign]
    client = outer.test_client()
    assert client.get("/").text == "page of the host application"
    assert client.get("/gpu/api/v1/system/monitoring/all").status_code == 200
    scripts = re.findall(r'src="([^"]*_dash-component-suites[^"]*)"', client.get("/gpu/").text)
    assert {client.get(urljoin("/gpu/", script)).status_code for script in scripts} == {200}
    assert "Content-Security-Policy" not in client.get("/").headers
