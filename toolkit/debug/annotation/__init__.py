"""The parts of `tk.debug.annotate`: statements of a source, loops around them, values as text."""
