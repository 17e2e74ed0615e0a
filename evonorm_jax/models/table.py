"""The table of all networks, docs/models.md.

This command writes it:

    python -m evonorm_jax.models.table > docs/models.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evonorm_jax.errors import UserError
from evonorm_jax.models.cifar_resnet import CifarResNet
from evonorm_jax.models.complexity import count_parameters, measure_complexity
from evonorm_jax.models.inverted_residual import InvertedResidualNetwork
from evonorm_jax.models.registry import create_model, model_names, native_image_size
from evonorm_jax.models.resnet import ResNet
from evonorm_jax.models.resnet_v1 import ResNetV1

_PREACTIVATION = "before every convolution but the stem's, and before the head"
#: Where a network has its layers, by its class.
PLACEMENTS = {
    ResNet: _PREACTIVATION,
    CifarResNet: _PREACTIVATION,
    ResNetV1: "after every convolution; linear before a sum, the activation after it",
    InvertedResidualNetwork: "after every convolution; linear at the end of a block",
}

_HEADER = """\
# The networks

`python -m evonorm_jax.models.table > docs/models.md` writes this page. Parameters are counted with
{imagenet} classes, {cifar} for the CIFAR networks. With EvoNorm-B0 or S0 every layer that is not
linear has one more vector, `v`. Multiply-adds are those of convolutions and dense layers for one
image of the size that the network was designed for; every network takes other sizes as well. A
linear layer is one without its activation, which leaves the affine map of an EvoNorm. The `_v1`
networks activate after the residual sum, and refuse a layer that normalises and activates in one.

| name | parameters, BatchNorm | EvoNorm-B0, S0 | multiply-adds | image | where the layer stands |
|---|---:|---:|---:|---:|---|
"""


class Row(NamedTuple):
    """The counts of parameters and multiply-adds of one network."""

    batch_norm_parameters: int
    evonorm_parameters: int | None  # None where the network refuses it
    multiply_adds: int


def num_classes(name: str) -> int:
    """Returns the number of classes of the data set that the network was designed for."""
    return 10 if "cifar" in name else 1000


def measure(name: str) -> Row:
    """Counts the parameters and multiply-adds of a network at its native image size.

    >>> measure("cifar_resnet20")
    Row(batch_norm_parameters=272282, evonorm_parameters=272970, multiply_adds=40813184)
    """
    model = create_model(name, num_classes(name), norm_act="bn_relu")
    batch_norm = measure_complexity(model, native_image_size(name))
    try:
        evonorm = count_parameters(create_model(name, num_classes(name), norm_act="evonorm_s0"))
    except UserError:
        return Row(batch_norm.parameters, None, batch_norm.multiply_adds)
    return Row(batch_norm.parameters, evonorm, batch_norm.multiply_adds)


def render(rows: Mapping[str, Row]) -> str:
    """Returns the document, in Markdown."""
    lines = [_HEADER.format(imagenet=num_classes("resnet50"), cifar=num_classes("cifar_resnet20"))]
    for name, row in rows.items():
        network = create_model(name, num_classes(name), norm_act="bn_relu")
        evonorm = "refused" if row.evonorm_parameters is None else f"{row.evonorm_parameters:,}"
        (placement,) = (text for cls, text in PLACEMENTS.items() if isinstance(network, cls))
        lines.append(
            f"| `{name}` | {row.batch_norm_parameters:,} | {evonorm} "
            f"| {row.multiply_adds / 1e6:,.1f} M | {native_image_size(name)} | {placement} |\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    print(render({name: measure(name) for name in model_names()}), end="")
