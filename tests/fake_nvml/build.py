"""Compile the fake library, once for each version of its sources and set of omitted symbols."""

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
# -g0 and a fixed optimization level: benchmarks measure the CPU time of programs that call this library.
CFLAGS = ("-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread")

# Functions are defined either plainly or by a macro whose first argument is the name.
_DEFINITION = re.compile(r"^(?:EXPORT [\w ]+?[ *]|[A-Z][A-Z_]+\()(nvml\w+)", re.MULTILINE)


class CompilerMissingError(RuntimeError):
    """No C compiler was found."""


@dataclass(frozen=True, slots=True)
class Library:
    """A compiled library, in its own directory and with the file name that programs load."""

    path: Path

    @property
    def directory(self) -> Path:
        return self.path.parent

    def env(self, world_file: Path, base: dict[str, str] | None = None) -> dict[str, str]:
        """Return an environment in which programs load this library with the world of that file."""
        env = dict(os.environ if base is None else base)
        found = [str(self.directory), env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(part for part in found if part)
        env[WORLD_VARIABLE] = str(world_file)
        return env


@functools.cache
def exported_functions() -> frozenset[str]:
    """Return the names of all functions of the fake library."""
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
    """Return the library without the symbols in `absent`, as in an older driver; compile it unless it is cached.

    Several test runs can share the cache. Raise ValueError for a name in `absent` that is not a function.
    """
    omitted = sorted(set(absent))
    if unknown := set(omitted) - exported_functions():
        raise ValueError(f"not a function of the fake library: {', '.join(sorted(unknown))}")
    headers = sorted(SOURCE_DIR.glob("*.h"))
    text = "\0".join([*CFLAGS, *(path.read_text() for path in [*_sources(), *headers])])
    source_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
    absent_hash = hashlib.sha256("\0".join(omitted).encode()).hexdigest()[:8] if omitted else "all"
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
        hidden = "".join(f"{name}; " for name in omitted)
        script.write_text(f"{{ global: nvml*; local: {hidden}*; }};\n")
        flags = ["-shared", "-pthread", f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={script}"]
        object_files = [str(path) for path in sorted(objects.glob("*.o"))]
        _run([compiler, *flags, *object_files, "-o", str(linked / SONAME)])
        _move_into_place(linked, library.directory)
    return library


def _move_into_place(built: Path, target: Path) -> None:
    try:
        built.rename(target)
    except OSError:
        if not target.exists():
            raise  # not because another test run was faster
