"""`on_eight/` needs eight devices, whose number is fixed when jax starts: a process of its own runs it."""

import os

FLAG = "--xla_force_host_platform_device_count=8"  # of the environment variable XLA_FLAGS

if FLAG not in os.environ.get("XLA_FLAGS", ""):
    collect_ignore = ["on_eight"]  # `test_on_eight_devices.py` runs it
