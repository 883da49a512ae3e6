"""Every public function under every transformation of JAX: it works, or it is refused by a named error.

    python -m benchmarks transforms            writes docs/transforms.json and docs/transforms.md
    python -m benchmarks transforms --check    exits with 1 and names the cells that differ

`rows` has a small program for each function, `columns` the transformations, `table` fills and compares.
"""
