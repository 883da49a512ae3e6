"""Side by side with what a good user writes by hand, and with other libraries: `python -m benchmarks`."""
