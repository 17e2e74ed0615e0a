"""The anchor networks: what a candidate is trained in (paper, section 3).

A candidate is paired with three networks for CIFAR, after ResNet-50, MobileNetV2 and
EfficientNet-B0, so that it suits more than one architecture. The paper does not give their sizes;
these are ours:

    full   the networks of `evonorm_jax.models` as they are: 50, 53 and 50 layers on a GPU each
    small  the same with one or two blocks to a stage
    tiny   for two cores: one block to a stage, few channels, and most of the resolution lost at
           the stem, so that 100 steps of 128 images take 3 to 7 s
    deep   for CPUs, too: a MobileNetV2 of 23 layers and few channels for images of 8 x 8 pixels.
           Unbounded layers without a normalization diverge there within ten steps of the search's
           learning rate; networks of one block a stage let them pass
    deeper a MobileNetV2 of 29 and a ResNet of 26 layers, for winners of a search in the deep one

They stand in the order in which a search asks them: whichever costs least comes first, because the
first that a candidate fails decides.

>>> [anchor.model for anchor in ANCHOR_SIZES["tiny"]]
['efficientnet_b0_cifar', 'mobilenet_v2_cifar', 'resnet50_cifar']
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flax import linen as nn

from evonorm_jax.models import create_model
from evonorm_jax.norm_act import LayerLike


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A network without its layers.

    Attributes:
      model: A name that `create_model` knows.
      fields: The fields of the network, as pairs of a name and a value or as a mapping.
      name: The name of its scores; that of the model by default.
    """

    model: str
    fields: tuple[tuple[str, Any], ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.model)
        fields = dict(self.fields)
        # Lists, as JSON has them, would make the anchor unhashable.
        pairs = ((k, tuple(v) if isinstance(v, list) else v) for k, v in fields.items())
        object.__setattr__(self, "fields", tuple(sorted(pairs)))

    def create(self, num_classes: int, norm_act: LayerLike) -> nn.Module:
        """Creates the network with these layers.

        Raises:
          UserError: There is no such network, or it has no such field.
        """
        return create_model(self.model, num_classes, norm_act, **dict(self.fields))


def _anchors(**fields: Mapping[str, Any]) -> tuple[Anchor, ...]:
    return tuple(Anchor(model, tuple(values.items())) for model, values in fields.items())


#: The anchors of each size, by its name.
ANCHOR_SIZES: Mapping[str, tuple[Anchor, ...]] = MappingProxyType(
    {
        "full": _anchors(efficientnet_b0_cifar={}, mobilenet_v2_cifar={}, resnet50_cifar={}),
        "small": _anchors(
            efficientnet_b0_cifar={"stage_sizes": (1, 1, 1, 1, 1), "stem": "imagenet"},
            mobilenet_v2_cifar={"stage_sizes": (1, 1, 2, 2), "stem": "imagenet"},
            resnet50_cifar={"stage_sizes": (2, 2, 2)},
        ),
        "tiny": _anchors(
            efficientnet_b0_cifar={
                "stage_sizes": (1, 1, 1),
                "stem": "imagenet",
                "width_multiplier": 0.25,
            },
            mobilenet_v2_cifar={
                "stage_sizes": (1, 1, 1),
                "stem": "imagenet",
                "width_multiplier": 0.25,
            },
            # Two wide stages at a low resolution: as accurate after 100 steps as three narrow ones
            # at the full one, which take five times as long and more than both others together.
            resnet50_cifar={"stage_sizes": (1, 1), "num_filters": 16, "stem": "imagenet"},
        ),
        # Most of its blocks are where its maps are small.
        "deep": _anchors(mobilenet_v2_cifar={"stage_sizes": (1, 1, 5), "width_multiplier": 0.25}),
        "deeper": (
            Anchor("mobilenet_v2_cifar", (("stage_sizes", (1, 1, 7)), ("width_multiplier", 0.25))),
            Anchor("cifar_resnet20", (("depth", 26), ("num_filters", 8)), name="cifar_resnet26"),
        ),
    }
)
