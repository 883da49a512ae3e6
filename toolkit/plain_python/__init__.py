"""`@control_flow`: Python's own `for`, `while` and `if` on traced values."""
