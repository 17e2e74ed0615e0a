"""Names of data sets and networks in prose, for titles and legends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 (JPEG)",  # the names that runs on such copies are given
    "cifar10_jpeg_16": "CIFAR-10 (JPEG) of 16x16 pixels",
    "cifar100": "CIFAR-100",
    "coco2017": "COCO",
    "digits": "digits of 8x8 pixels",
    "imagenet2012": "ImageNet",
    "nuclei256": "nuclei",
}

# Registered names by pattern. Whether a name is that of the CIFAR form, the data set says.
_NETWORKS = {
    r"(?:cifar_)?resnet(\d+)(?:_cifar)?": r"ResNet-\1",
    r"resnet(\d+)_v1": r"ResNet-\1 v1.5",
    r"mobilenet_v2(?:_cifar)?": "MobileNetV2",
    r"mnasnet_b(\d)": r"MnasNet-B\1",
    r"efficientnet_b(\d)(?:_cifar)?": r"EfficientNet-B\1",
    r"biggan_deep_\d+": "BigGAN-deep",
    r"maskrcnn_r(\d+)_fpn": r"Mask R-CNN of ResNet-\1-FPN",
    r"maskrcnn_r(\d+)_preact_fpn": r"Mask R-CNN of pre-activation ResNet-\1-FPN",
    r"maskrcnn_spinenet(\d+)(s?)": r"Mask R-CNN of SpineNet-\1\2",
}


def dataset_label(name: str, source: str = "") -> str:
    """Writes the registered name of a data set as the literature does; other names stay.

    >>> dataset_label("cifar10"), dataset_label("cifar10", "fake"), dataset_label("flowers")
    ('CIFAR-10', 'fake images', 'flowers')
    """
    return "fake images" if source == "fake" else _DATASETS.get(name, name)


def network_label(
    name: str, fields: Mapping[str, Any] | None = None, *, most_fields: int = 8
) -> str:
    """Writes name and fields of a network as the literature does.

    The depth that a CIFAR ResNet was given takes the place of that in its name. Of more fields than
    `most_fields`, such as those of a small detector, there is the number alone.

    >>> network_label("cifar_resnet20", {"depth": 8}), network_label("resnet50_v1")
    ('ResNet-8', 'ResNet-50 v1.5')
    >>> network_label("mobilenet_v2", {"width_multiplier": 0.5})
    'MobileNetV2 (width_multiplier=0.5)'
    >>> network_label("maskrcnn_r18_fpn", dict.fromkeys("abcdefghi", 1))
    'Mask R-CNN of ResNet-18-FPN (9 fields set)'
    """
    fields = dict(fields or {})
    if name.startswith("cifar_resnet") and "depth" in fields:
        name = f"cifar_resnet{fields.pop('depth')}"
    for pattern, label in _NETWORKS.items():
        if re.fullmatch(pattern, name):
            name = re.sub(pattern, label, name)
            break
    rest = ", ".join(f"{field}={value}" for field, value in fields.items())
    if len(fields) > most_fields:
        rest = f"{len(fields)} fields set"
    return f"{name} ({rest})" if rest else name
