"""Runs every check of dashtop: linters, types, import rules, tests. Needs nothing but Python 3.10 or later.

    python3 tests/run.py [arguments for pytest]

Makes a virtual environment in `.venv` unless it runs in one already, installs dashtop with its test tools there, and
installs Chromium and a C compiler from Debian's or Ubuntu's packages where they are missing and it may.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
NEEDED = {
    "chromium": ("chromium", "the browser tests drive it"),
    "gcc": ("gcc libc6-dev", "the fake NVML library of the tests is compiled with it"),
}


def main() -> None:
    if sys.version_info < OLDEST:
        sys.exit("dashtop needs Python 3.10 or later: run this with a newer python3.")
    install_programs()
    python = environment()
    extras = "test,test-notebook" if os.environ.get("ALL_TESTS") else "test"
    # Half of pip's time is compiling modules that no test imports. Python compiles the others once, unless it may not.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    run(*pip, "--editable", f"{ROOT}[{extras}]")
    checks: list[tuple[str, ...]] = [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("lint-imports", "--no-cache"),
        *javascript_checks(),
        # A file stays in one place: its tests share a server. conftest.py puts the slowest files first.
        ("pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", *sys.argv[1:]),
    ]
    # Half of the tests' time is waiting: three run at once, and meanwhile mypy, at the lowest priority.
    with start_mypy(python.parent) as mypy:
        failed = [" ".join(check) for check in checks if not passes(python.parent, check)]
        print("$ mypy", mypy.communicate()[0], sep="\n", end="", flush=True)
    if mypy.returncode != 0:
        failed.append("mypy")
    if failed:
        sys.exit("Failed: " + "; ".join(failed))


def start_mypy(tools: Path) -> subprocess.Popen[str]:
    command = ("nice", "-n", "19", tools / "mypy")
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def javascript_checks() -> list[tuple[str, ...]]:
    """Return the check of the page's scripts; none where npm is missing or cannot load ESLint."""
    npx = shutil.which("npx")
    eslint = (str(npx), "--yes", "eslint@9")
    if npx is None or subprocess.run([*eslint, "--version"], capture_output=True, check=False).returncode != 0:
        print("The scripts in assets/ are not checked: npm cannot load ESLint here.", flush=True)
        return []
    return [(*eslint, "--max-warnings", "0", "assets")]


def install_programs() -> None:
    """Install the programs that are missing, or say what a person must install."""
    missing = {program: why for program, why in NEEDED.items() if shutil.which(program) is None}
    if not missing:
        return
    packages = " ".join(package for package, _ in missing.values())
    reasons = "; ".join(f"{program}: {why}" for program, (_, why) in missing.items())
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (as_root and shutil.which("sudo") is None):
        sys.exit(f"Please install {packages} first ({reasons}).")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages.split()]):
        result = subprocess.run(
            [*as_root, "apt-get", "-q", *command], env=quiet, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            sys.exit(
                f"{result.stderr}\nCould not install {packages} ({reasons}); please run: apt-get install {packages}"
            )


def environment() -> Path:
    """Return the Python of the virtual environment to use."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.executable)
    folder = ROOT / ".venv"
    python = folder / "bin" / "python"
    if not python.exists():
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder, ignore_errors=True)
            sys.exit("Python's venv module is incomplete here; on Debian and Ubuntu: apt-get install python3-venv")
    return python


def passes(tools: Path, check: tuple[str, ...]) -> bool:
    print("$", *check, flush=True)
    return subprocess.run([tools / check[0], *check[1:]], cwd=ROOT, check=False).returncode == 0


def run(*command: Path | str) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit(f"Failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    main()
