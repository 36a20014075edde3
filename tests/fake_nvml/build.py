"""Compiles the fake library, once per state of its sources and set of symbols left out."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE_DIR = Path(__file__).parent
SONAME = "libnvidia-ml.so.1"
WORLD_VARIABLE = "FAKE_NVML_WORLD"
# -g0 and a fixed optimisation level: callers' CPU cost is measured through this library.
CFLAGS = ("-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread")

# Functions are defined either plainly or by a macro whose first argument is the name.
_DEFINITION = re.compile(r"^(?:EXPORT [\w ]+?[ *]|[A-Z][A-Z_]+\()(nvml\w+)", re.MULTILINE)


class CompilerMissingError(RuntimeError):
    """There is no C compiler to build the fake library with."""


@dataclass(frozen=True, slots=True)
class Library:
    """A built library, in a directory of its own under the name that programs ask for."""

    path: Path

    @property
    def directory(self) -> Path:
        return self.path.parent

    def env(self, world_file: Path, base: dict[str, str] | None = None) -> dict[str, str]:
        """An environment whose programs find this library, in the world of that file."""
        env = dict(os.environ if base is None else base)
        found = [str(self.directory), env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(part for part in found if part)
        env[WORLD_VARIABLE] = str(world_file)
        return env


@functools.cache
def exported_functions() -> frozenset[str]:
    """Every NVML function that the fake has, by its symbol's name."""
    return frozenset(name for source in _sources() for name in _DEFINITION.findall(source.read_text()))


def _sources() -> list[Path]:
    return sorted(SOURCE_DIR.glob("*.c"))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        raise CompilerMissingError("no C compiler: install gcc, or name one in the variable CC")
    return compiler


def build_library(cache_dir: Path, absent: Iterable[str] = ()) -> Library:
    """The library, from the cache where it has been built before; safe when several test runs share the cache.

    The symbols in `absent` cannot be found in it, as in a driver older than them.
    """
    left_out = sorted(set(absent))
    if unknown := set(left_out) - exported_functions():
        raise ValueError(f"not a function of the fake library: {', '.join(sorted(unknown))}")
    headers = sorted(SOURCE_DIR.glob("*.h"))
    text = "\0".join([*CFLAGS, *(path.read_text() for path in [*_sources(), *headers])])
    source_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
    absent_hash = hashlib.sha256("\0".join(left_out).encode()).hexdigest()[:8] if left_out else "all"
    library = Library(cache_dir / f"fake-nvml-{source_hash}-{absent_hash}" / SONAME)
    if library.path.exists():
        return library
    compiler = _compiler()
    cache_dir.mkdir(parents=True, exist_ok=True)
    objects = cache_dir / f"fake-nvml-{source_hash}-objects"
    with tempfile.TemporaryDirectory(dir=cache_dir) as scratch_name:
        scratch = Path(scratch_name)
        if not objects.exists():
            compiled = scratch / "objects"
            compiled.mkdir()
            for source in _sources():
                _run([compiler, *CFLAGS, "-c", str(source), "-o", str(compiled / f"{source.stem}.o")])
            _move_into_place(compiled, objects)
        linked = scratch / "library"
        linked.mkdir()
        script = scratch / "symbols.map"
        hidden = "".join(f"{name}; " for name in left_out)
        script.write_text(f"{{ global: nvml*; local: {hidden}*; }};\n")
        flags = ["-shared", "-pthread", f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={script}"]
        object_files = [str(path) for path in sorted(objects.glob("*.o"))]
        _run([compiler, *flags, *object_files, "-o", str(linked / SONAME)])
        _move_into_place(linked, library.directory)
    return library


def _move_into_place(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise  # it was not another test run that was first
