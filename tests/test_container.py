"""Dockerfile, compose.yaml and docs/kubernetes.yaml: they show all GPUs and keep the history."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.processes import ROOT, eventually, running

DOCKERFILE = (ROOT / "Dockerfile").read_text()
SOURCES = {"app", "assets", "LICENSE", "README.md", "pyproject.toml"}
"""What the build of the wheel reads."""


def read_instructions() -> list[tuple[str, str]]:
    """Return the instructions of the last stage of the Dockerfile, with their arguments."""
    lines = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    instructions = [(name, arguments.strip()) for name, _, arguments in (line.partition(" ") for line in lines if line)]
    start = max(at for at, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


def find_instruction(name: str) -> str:
    (arguments,) = [arguments for each, arguments in read_instructions() if each == name]
    return arguments


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """The environment variables of the image."""
    return dict(each.split("=", 1) for each in shlex.split(find_instruction("ENV")))


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """The documents of docs/kubernetes.yaml by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Any]) -> Any:
    return manifests["DaemonSet"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container


def test_image_is_slim_and_runs_as_another_user_than_root(environment: dict[str, str]) -> None:
    assert re.fullmatch(r"python:3\.\d+-slim", find_instruction("FROM"))
    assert find_instruction("USER").split(":")[0] != "0"
    assert find_instruction("USER").split(":")[0].isdecimal(), "Kubernetes can check a number only (runAsNonRoot)"
    assert find_instruction("VOLUME") == environment["DASHTOP_DATA_DIR"] == "/data"
    assert environment["DASHTOP_HOST"] == "0.0.0.0"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "utility"
    assert find_instruction("EXPOSE") == environment["DASHTOP_PORT"]
    assert find_instruction("ENTRYPOINT") == '["dashtop"]'


def test_health_check_of_the_image_succeeds_only_while_dashtop_answers(environment: dict[str, str]) -> None:
    command = json.loads(find_instruction("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"

    def check(port: str) -> int:
        return subprocess.run(
            [sys.executable, *command[1:]], env={**environment, "DASHTOP_PORT": port}, capture_output=True, check=False
        ).returncode

    # Bound as in the container: it has a token, which the health check does not know.
    with running("--no-gpu", "--no-persist", "--host", environment["DASHTOP_HOST"], ready=False) as server:
        port = server.url.split("/")[2].rpartition(":")[2]
        assert check(port) == 0
    assert check(port) != 0


def test_build_context_holds_what_the_wheel_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines[1:]} == SOURCES
    assert all((ROOT / each).exists() for each in SOURCES)


def test_compose_keeps_the_history_and_reserves_the_gpus(environment: dict[str, str]) -> None:
    project = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = project["services"]["dashtop"]
    volume, folder = service["volumes"][0].split(":")
    assert volume in project["volumes"]
    assert folder == environment["DASHTOP_DATA_DIR"]
    (reservation,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert reservation == {"driver": "nvidia", "count": "all", "capabilities": ["utility"]}
    assert service["pid"] == "host"
    (port,) = service["ports"]
    assert port == f"127.0.0.1:8050:{environment['DASHTOP_PORT']}"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]


def test_daemon_set_sees_all_gpus_of_a_node_and_takes_none(pod: Any, container: Any) -> None:
    assert pod["hostPID"] is True
    assert pod["runtimeClassName"] == "nvidia"
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    for each in (*pod["containers"], *pod["initContainers"]):
        for kind in ("requests", "limits"):
            assert not any("nvidia.com" in name for name in each.get("resources", {}).get(kind, {}))


def test_daemon_set_has_probes_a_token_and_few_rights(
    manifests: dict[str, Any], pod: Any, container: Any, environment: dict[str, str]
) -> None:
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": int(environment["DASHTOP_PORT"])}]
    (reference,) = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if each["name"] == "DASHTOP_TOKEN"]
    assert reference["name"] == manifests["Secret"]["metadata"]["name"]
    assert reference["key"] in manifests["Secret"]["stringData"]
    security = container["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == find_instruction("USER")
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    spec = manifests["DaemonSet"]["spec"]
    assert spec["template"]["metadata"]["labels"].items() >= spec["selector"]["matchLabels"].items()
    assert pod["automountServiceAccountToken"] is False


def test_daemon_set_keeps_the_history_on_its_node(pod: Any, container: Any, environment: dict[str, str]) -> None:
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    data = volumes[mounts[environment["DASHTOP_DATA_DIR"]]]
    assert data["hostPath"]["type"] == "DirectoryOrCreate"
    assert set(mounts.values()) == set(volumes)
    # Kubernetes creates the folder for root.
    (preparation,) = pod["initContainers"]
    assert preparation["command"] == ["chown", find_instruction("USER"), environment["DASHTOP_DATA_DIR"]]


@pytest.mark.parametrize("path", ["healthz", "readyz"])
def test_probes_by_the_address_of_a_pod_need_no_token(path: str) -> None:
    with running("--no-gpu", "--no-persist", "--host", "0.0.0.0", ready=False) as server:
        url = f"http://{server.url.split('/')[2]}/{path}"
        request = urllib.request.Request(url, headers={"Host": "10.1.2.3:8050"})
        assert eventually(lambda: urllib.request.urlopen(request, timeout=5).status) == 200
