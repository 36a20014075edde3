"""The client of runs, which a training imports. Only the standard library is used."""
