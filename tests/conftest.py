"""Settings that every test needs, and no others."""

import hypothesis
import jax

# Derivatives are held against closed forms at rtol 1e-6: float32 cannot tell a right rule from a nearly right one.
jax.config.update("jax_enable_x64", True)

# The first example of a property includes XLA's compilation, so no deadline; the same examples in every run, so
# that a failure in CI is a failure at home.
hypothesis.settings.register_profile("toolkit", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("toolkit")
