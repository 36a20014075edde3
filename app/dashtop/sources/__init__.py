"""Where readings come from: NVML, the operating system, and simulated GPUs. Nothing here knows who asks."""
