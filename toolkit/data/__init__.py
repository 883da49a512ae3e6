"""Deterministic data: the same key, the same arrays."""

from toolkit.data.breast_cancer import BREAST_CANCER_FEATURES, breast_cancer
from toolkit.data.corruption import corrupt_labels
from toolkit.data.digits import Labelled, digits, split
from toolkit.data.scaling import standardize

__all__ = [
    "BREAST_CANCER_FEATURES",
    "Labelled",
    "breast_cancer",
    "corrupt_labels",
    "digits",
    "split",
    "standardize",
]
