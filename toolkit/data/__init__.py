"""Which examples does a run see? Deterministic data: the same key, the same arrays."""

from toolkit.data.breast_cancer import BREAST_CANCER_FEATURES, breast_cancer
from toolkit.data.corruption import corrupt_labels
from toolkit.data.digits import digits, split
from toolkit.data.image_sets import cifar10, fashion_mnist, mnist
from toolkit.data.labelled import Labelled
from toolkit.data.mnist_subset import mnist_subset
from toolkit.data.scaling import standardize

__all__ = [
    "BREAST_CANCER_FEATURES",
    "Labelled",
    "breast_cancer",
    "cifar10",
    "corrupt_labels",
    "digits",
    "fashion_mnist",
    "mnist",
    "mnist_subset",
    "split",
    "standardize",
]


def __dir__() -> list[str]:
    return sorted(__all__)
