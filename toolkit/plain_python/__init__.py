"""`@control_flow`: Python's own `for`, `while` and `if` on traced values. How does a function get there?

In the order of the work: `rewriting` turns blocks into functions, `runtime` is what they call,
`carried` splits their variables into arrays and structure, `tracing` runs a block once on tracers,
`staging` makes the loop or the condition of it.

The room is not called `control_flow`, because importing a package `toolkit.control_flow` would set
the attribute `control_flow` of `toolkit` and so overwrite the public decorator `tk.control_flow`.
"""
