"""The host: CPU, memory, disks, network, mounts, and the processes on GPUs."""
