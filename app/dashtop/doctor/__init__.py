"""`dashtop doctor`: reports what works, what is missing and why, and the command that fixes it."""
