"""Which words may a config use, and what may Python give in their place? Kinds of settings, and their roles."""
