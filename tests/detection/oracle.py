"""Boxes, suppression and RoIAlign once more, in NumPy and float64, one number at a time.

Nothing here knows the package under test.
"""

import math

import numpy as np


def iou(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(height, 0) * max(width, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def greedy_suppression(boxes, valid, threshold):
    """The textbook loop over boxes by descending score."""
    kept = []
    for index in range(len(boxes)):
        if valid[index] and all(iou(boxes[index], boxes[k]) <= threshold for k in kept):
            kept.append(index)
    return kept


def bilinear(features, y, x):
    """A value between the pixels of `[H, W, C]`, the border repeated outside."""
    height, width, _ = features.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = features[top, left] * (1 - dx) + features[top, right] * dx
    lower = features[bottom, left] * (1 - dx) + features[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def level_of(box, levels, canonical_size=224.0):
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = math.floor(4 + math.log2(side / canonical_size)) if side else min(levels)
    return min(max(level, min(levels)), max(levels))


def roi_align(maps, boxes, output_size, sampling_ratio=1, half_pixel=True, canonical_size=224.0):
    """Maps of one image, level -> `[H, W, C]`; boxes `[R, 4]`."""
    results = []
    points = output_size * sampling_ratio
    for box in boxes:
        level = level_of(box, list(maps), canonical_size)
        y1, x1, y2, x2 = box / 2**level - (0.5 if half_pixel else 0)
        values = np.array(
            [
                [
                    bilinear(
                        maps[level],
                        y1 + (y2 - y1) * (i + 0.5) / points,
                        x1 + (x2 - x1) * (j + 0.5) / points,
                    )
                    for j in range(points)
                ]
                for i in range(points)
            ]
        )
        shape = (output_size, sampling_ratio, output_size, sampling_ratio, -1)
        results.append(values.reshape(shape).mean(axis=(1, 3)))
    return np.stack(results)
