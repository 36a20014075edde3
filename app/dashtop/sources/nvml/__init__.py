"""NVIDIA GPUs through NVML, in a worker process."""
