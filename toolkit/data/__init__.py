"""Deterministic data: the same key, the same arrays."""

from toolkit.data.corruption import corrupt_labels
from toolkit.data.digits import Labelled, digits, split

__all__ = ["Labelled", "corrupt_labels", "digits", "split"]
