"""Wrong access tokens: a guesser is slowed down and logged; people with a cookie and outdated pages are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.web.security.guesses import MAX_CLIENTS, MAX_FREE_GUESSES, MAX_WAIT_S, GuessLimiter, group_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from dashtop.app import Dashtop

METRICS = "/api/v1/system/metrics"
TOKEN = "correct-horse-battery"


def guess_as_bearer(client: FlaskClient, token: str) -> int:
    return client.get(METRICS, headers={"Authorization": f"Bearer {token}"}).status_code


def guess_as_parameter(client: FlaskClient, token: str) -> int:
    return client.get(f"{METRICS}?token={token}").status_code


def guess_in_path(client: FlaskClient, token: str) -> int:
    return client.get(f"/~{token}{METRICS}").status_code


@pytest.mark.parametrize("guess", [guess_as_bearer, guess_as_parameter, guess_in_path])
def test_guesser_is_slowed_down_and_logged(
    start: Callable[..., Dashtop], guess: Callable[[FlaskClient, str], int], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(token=TOKEN, embed_token="battery-staple-embed").server
    friend = server.test_client()
    assert friend.get(f"/?token={TOKEN}").status_code == 302
    client = server.test_client()
    statuses = [guess(client, f"wrong-token-{number:08}") for number in range(500)]
    assert statuses[:MAX_FREE_GUESSES] == [401] * MAX_FREE_GUESSES
    assert statuses.count(401) < MAX_FREE_GUESSES + 8, "one each second at first"
    assert guess(client, TOKEN) == 429, "the right token must not be found meanwhile"
    assert 0 < caplog.text.count("Wrong access token from 127.0.0.1") < MAX_FREE_GUESSES + 8
    assert "wrong-token" not in caplog.text
    assert friend.get(METRICS).status_code == 200
    assert client.get("/healthz").status_code == 200
    assert guess(client, "wrong-token-00000000") == 401, "an outdated token is refused as ever"
    elsewhere = {"REMOTE_ADDR": "192.0.2.9"}
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get(METRICS, headers=bearer, environ_base=elsewhere).status_code == 200
    page = client.get("/?token=wrong-token-again", headers={"Accept": "text/html"})
    assert (page.status_code, page.mimetype) == (429, "text/html")
    assert 1 <= int(page.headers["Retry-After"]) <= MAX_WAIT_S


def test_outdated_token_that_is_repeated_does_not_count(start: Callable[..., Dashtop]) -> None:
    client = start(token=TOKEN).server.test_client()
    assert {guess_as_bearer(client, "token-of-yesterday") for _ in range(3 * MAX_FREE_GUESSES)} == {401}
    assert guess_as_bearer(client, TOKEN) == 200


def test_jupyters_token_beside_the_right_one_does_not_count(start: Callable[..., Dashtop]) -> None:
    client = start(token=TOKEN).server.test_client()
    for _ in range(3 * MAX_FREE_GUESSES):
        assert (
            client.get(f"{METRICS}?token=of-jupyter", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        )


def test_embed_token_does_not_help_to_guess_the_other(start: Callable[..., Dashtop]) -> None:
    client = start(token=TOKEN, embed_token="battery-staple-embed").server.test_client()
    bearer = {"Authorization": "Bearer battery-staple-embed"}
    for number in range(2 * MAX_FREE_GUESSES):
        client.get(f"/embed/compact?token=wrong-token-{number}", headers=bearer)
    assert client.get(f"/embed/compact?token={TOKEN}", headers=bearer).status_code == 429


def test_wait_doubles_up_to_a_minute_and_is_forgotten() -> None:
    now_s = 0.0
    limiter = GuessLimiter(lambda: now_s)
    waits = []
    for number in range(MAX_FREE_GUESSES + 10):
        waits.append(limiter.get_wait_s("192.0.2.1", [str(number)]))
        now_s += waits[-1]
        limiter.add("192.0.2.1", str(number))
    assert waits == [0.0] * MAX_FREE_GUESSES + [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert limiter.get_wait_s("192.0.2.1", ["new"]) == 60
    assert limiter.get_wait_s("192.0.2.1", ["3"]) == 0
    assert limiter.get_wait_s("192.0.2.2", ["new"]) == 0
    now_s += 3601
    assert limiter.get_wait_s("192.0.2.1", ["new"]) == 0


def test_memory_is_bounded() -> None:
    limiter = GuessLimiter(lambda: 0.0)
    for number in range(MAX_CLIENTS + 50):
        limiter.add(f"198.51.{number // 256}.{number % 256}", "wrong")
    assert len(limiter._clients) == MAX_CLIENTS
    for number in range(1000):
        limiter.add("192.0.2.1", str(number))
    assert len(limiter._clients["192.0.2.1"].known) <= 100


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"), ("", ""), ("unix:", "unix:"),
    ],
)  # fmt: skip
def test_client_has_all_addresses_of_its_network(address: str, group: str) -> None:
    assert group_address(address) == group
