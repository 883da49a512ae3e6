"""The 569 breast tumours of scikit-learn."""

from __future__ import annotations

import jax.numpy as jnp

from toolkit.data.labelled import Labelled

_MEASURED = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)

BREAST_CANCER_FEATURES = (
    *(f"mean {name}" for name in _MEASURED),
    *(f"{name} error" for name in _MEASURED),
    *(f"worst {name}" for name in _MEASURED),
)


def breast_cancer() -> Labelled:
    """Measurements of cell nuclei in breast tumours: `B = 569`, `F = 30`, 212 malignant (0), 357 benign (1).

    The features, named in `BREAST_CANCER_FEATURES`, are positive and of very different sizes: pass them
    through `standardize` first.

    Raises:
      ImportError: scikit-learn, which ships the data, is not installed.

    Source: Street, Wolberg & Mangasarian 1993 (UCI, Breast Cancer Wisconsin, diagnostic).
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise ImportError(
            "tk.data.breast_cancer needs scikit-learn, which ships the data: "
            "pip install 'toolkit-jax[data]'."
        ) from None
    features, labels = load_breast_cancer(return_X_y=True)
    return Labelled(jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.int32))
