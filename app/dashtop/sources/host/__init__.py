"""The host: CPU, memory, disks, network, processes."""
