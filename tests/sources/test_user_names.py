from __future__ import annotations

import functools
import os
import pwd
import threading

import pytest

from dashtop.sources.host.processes import UserNames, parse_environment_name
from tests.processes import eventually, refuse_threads


class TestUserNames:
    def test_known_and_unknown_users(self) -> None:
        names = UserNames()
        assert eventually(lambda: names.get(os.getuid())) == pwd.getpwuid(os.getuid()).pw_name
        assert eventually(lambda: names.get(4_000_000_123)) == "4000000123"

    def test_each_user_is_looked_up_once(self) -> None:
        looked_up: list[int] = []

        def lookup(uid: int) -> str:
            looked_up.append(uid)
            return f"user-{uid}"

        names = UserNames(lookup)
        for _ in range(3):
            assert eventually(lambda: names.get(5)) == "user-5"
        assert looked_up == [5]

    def test_hanging_lookup_blocks_nothing_and_takes_one_thread(self) -> None:
        answer = threading.Event()
        before = threading.active_count()

        def lookup(uid: int) -> str:
            answer.wait(30)
            return f"user-{uid}"

        names = UserNames(lookup)
        try:
            assert [names.get(uid) for uid in range(50)] == [None] * 50
            assert threading.active_count() == before + 1
        finally:
            answer.set()
        assert eventually(lambda: names.get(0)) == "user-0"
        assert eventually(lambda: names.get(49)) == "user-49"

    def test_name_is_unknown_while_no_thread_can_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = UserNames(str)
        with monkeypatch.context() as limited:
            refuse_threads(limited)
            assert names.get(7) is None
        assert eventually(lambda: names.get(7)) == "7"

    def test_number_of_stored_names_is_limited(self) -> None:
        names = UserNames(str)
        for uid in range(2_500):
            assert eventually(functools.partial(names.get, uid), every_s=0.001) == str(uid)
        assert len(names._names) <= 1_000

    def test_name_is_sanitized(self) -> None:
        names = UserNames(lambda uid: "a\x1b[31m\nb" + "c" * 200)
        assert eventually(lambda: names.get(1)).startswith("a\ufffd[31m\ufffdbccc")
        assert len(names.get(1) or "") == 64


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (b"", None),
        (b"PATH=/bin\0", None),
        (b"VIRTUAL_ENV=/home/ada/venvs/train\0CONDA_DEFAULT_ENV=base\0", "train"),
        (b"A=1\0CONDA_DEFAULT_ENV=torch-2.4", "torch-2.4"),
        (b"CONDA_DEFAULT_ENV=/scratch/ada/envs/big/\0", "big"),
        (b"VIRTUAL_ENV=\0CONDA_DEFAULT_ENV=base\0", "base"),
        (b"VIRTUAL_ENV=/\0", None),
        (b"OLD_VIRTUAL_ENV=/x/no\0VIRTUAL_ENV_PROMPT=no\0", None),
        (b"X=a VIRTUAL_ENV=/x/no\0", None),
        (b"VIRTUAL_ENV=/x/<i>\x1b[1m\xff\n\0", "<i>\ufffd[1m\ufffd\ufffd"),
        (b"VIRTUAL_ENV=/x/" + b"n" * 4096 + b"\0", "n" * 63 + "…"),
    ],
)
def test_only_the_name_of_an_environment_is_returned(environ: bytes, name: str | None) -> None:
    assert parse_environment_name(environ) == name
