"""Features and logits of two sets of samples, the same on every machine."""

import numpy as np

from tests.interop.cases import uniform


def make_features() -> tuple[np.ndarray, np.ndarray]:
    """Of 60 and 50 samples, 8 numbers each, float32; the second set is shifted and narrower."""
    first, second = uniform("first", (60, 8)), uniform("second", (50, 8))
    mix = uniform("mix", (8, 8))
    return (first @ mix).astype(np.float32), (0.7 * second @ mix + 0.2).astype(np.float32)


def make_logits() -> np.ndarray:
    """Of 95 samples and 7 classes: no part of ten has as many as another."""
    return (4 * uniform("logits", (95, 7))).astype(np.float32)
