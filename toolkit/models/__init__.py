"""Which network? Networks as pairs of pure functions: small ones that experiments share, and flax modules.

A network of one's own needs nothing from here: two functions are a model.

    def init(key, example):
        first, second = jax.random.split(key)
        return {
            "inner": jax.random.normal(first, (example.shape[-1], 32)) / example.shape[-1] ** 0.5,
            "outer": jax.random.normal(second, (32, 10)) / 32**0.5,
        }

    def apply(params, x):
        return jnp.tanh(x @ params["inner"]) @ params["outer"]

    model = tk.models.Model(init, apply)
"""

from typing import TYPE_CHECKING

from toolkit.faces import lazy

if TYPE_CHECKING:
    from toolkit.models.convolutional import convnet, lenet
    from toolkit.models.flax_modules import pure
    from toolkit.models.layers import conv_layers, dense_layers
    from toolkit.models.model import Model
    from toolkit.models.perceptron import mlp

__all__ = ["Model", "conv_layers", "convnet", "dense_layers", "lenet", "mlp", "pure"]

# Lazy, so that an experiment with an `mlp` does not pay for importing flax.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "toolkit.models.convolutional": ("convnet", "lenet"),
        "toolkit.models.perceptron": ("mlp",),
        "toolkit.models.layers": ("conv_layers", "dense_layers"),
        "toolkit.models.model": ("Model",),
        "toolkit.models.flax_modules": ("pure",),
    },
)
