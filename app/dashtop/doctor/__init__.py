"""Says what was found on this machine, what is missing and why, and the command that mends it."""
