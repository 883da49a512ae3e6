"""Which inputs a traced program moves with: the analysis behind `tk.debug.dead_gradients`."""
