"""Alerts: the table of rules, and the state machine that evaluates them with each sample."""
