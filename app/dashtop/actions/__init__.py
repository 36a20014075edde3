"""Signals to processes on GPUs, for people who are allowed to send them, and the audit log."""
