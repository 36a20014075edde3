"""Usage of the GPUs, calculated from the history: GPU-hours by user and by GPU, energy, and peaks of memory."""
