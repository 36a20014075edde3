"""What was measured before: the pure roll-up and the stores behind the History port."""
