"""A libnvidia-ml.so.1 without a GPU: compiled by the tests, its world described by a file.

The library (the ``.c`` files here) speaks the binary interface of the real one as far as monitors use it. What it
answers is described by a world: JSON under ``app/dashtop/sources/simulated/worlds``, or a :class:`World` that a test
changes while the monitored program runs. ``README.md`` beside this file describes the schema.
"""

from tests.fake_nvml.build import CompilerMissingError, Library, build_library, exported_functions
from tests.fake_nvml.world import REALISTIC_LATENCY_US, World, world_names

__all__ = [
    "REALISTIC_LATENCY_US",
    "CompilerMissingError",
    "Library",
    "World",
    "build_library",
    "exported_functions",
    "world_names",
]
