"""Sources of readings: NVML, the operating system, and simulated GPUs."""
