"""The static layout around the panels."""
