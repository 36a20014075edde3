"""A fake libnvidia-ml.so.1, compiled by the tests, whose results come from a file.

The library (the ``.c`` files here) implements the functions of NVML that monitors call. A world defines what they
return: JSON under ``app/dashtop/sources/simulated/worlds``, or a :class:`World` that a test changes while the monitored
program runs. ``README.md`` in this folder describes the schema.
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
