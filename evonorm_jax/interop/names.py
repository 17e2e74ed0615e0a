"""Names of modules, here and in timm: one table per family, read from top to bottom.

A row is `name here -> name there`. `{i}` stands for a number, the same on both sides; `{i-1}` for
one less, because timm counts most things from 0 and we count from 1.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class ModuleNames:
    """The names of one family's modules.

    Attributes:
      rows: Names in timm by names here; the docstring of this file describes them.
      dense: Names in timm of the modules that are `torch.nn.Linear`. All other kernels belong to
        `torch.nn.Conv2d`; those of our other dense layers are 1x1 convolutions there.
    """

    rows: Mapping[str, str]
    dense: tuple[str, ...] = ()

    def to_timm(self, module: str) -> str | None:
        """Returns timm's name of a module, or None where it has none.

        >>> RESNET_V1.to_timm("stage2_block1/shortcut_conv")
        'layer2.0.downsample.0'
        """
        for pattern, template in _compile(tuple(self.rows.items())):
            if found := pattern.fullmatch(module):
                numbers = {key: int(value) for key, value in found.groupdict().items()}
                return re.sub(r"{(\w)(-1)?}", functools.partial(_number, numbers), template)
        return None


def _number(numbers: Mapping[str, int], field: re.Match[str]) -> str:
    return str(numbers[field[1]] - (1 if field[2] else 0))


@functools.cache
def _compile(rows: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(re.sub(r"{(\w)}", r"(?P<\1>\\d+)", here)), there) for here, there in rows]


_RESNET_V1_ROWS = {
    "stem_conv": "conv1",
    "stem_norm": "bn1",
    "stage{i}_block{j}/conv{k}": "layer{i}.{j-1}.conv{k}",
    "stage{i}_block{j}/norm{k}": "layer{i}.{j-1}.bn{k}",
    "stage{i}_block{j}/shortcut_conv": "layer{i}.{j-1}.downsample.0",
    "stage{i}_block{j}/shortcut_norm": "layer{i}.{j-1}.downsample.1",
    "head": "fc",
}

RESNET_V1 = ModuleNames(_RESNET_V1_ROWS, dense=("fc",))

# The deep stem is a torch.nn.Sequential with its activations at 2 and 5; the pool of a shortcut
# takes place 0.
RESNET_V1_D = ModuleNames(
    _RESNET_V1_ROWS
    | {
        "stem_conv1": "conv1.0",
        "stem_norm1": "conv1.1",
        "stem_conv2": "conv1.3",
        "stem_norm2": "conv1.4",
        "stem_conv3": "conv1.6",
        "stage{i}_block{j}/shortcut_conv": "layer{i}.{j-1}.downsample.1",
        "stage{i}_block{j}/shortcut_norm": "layer{i}.{j-1}.downsample.2",
    },
    dense=("fc",),
)

RESNET_V2 = ModuleNames(
    {
        "stem_conv": "stem.conv",
        "stem_conv{k}": "stem.conv{k}",
        "stem_norm{k}": "stem.norm{k}",
        "stage{i}_block{j}/conv{k}": "stages.{i-1}.blocks.{j-1}.conv{k}",
        "stage{i}_block{j}/norm{k}": "stages.{i-1}.blocks.{j-1}.norm{k}",
        "stage{i}_block{j}/shortcut_conv": "stages.{i-1}.blocks.{j-1}.downsample.conv",
        "head_norm": "norm",
        "head": "head.fc",
    }
)

# MobileNetV2, MnasNet and EfficientNet. Stage 1 does not expand, which makes it another block
# there: a depthwise separable convolution, with the same names for other things.
MOBILE = ModuleNames(
    {
        "stem_conv": "conv_stem",
        "stem_norm": "bn1",
        "stage1_block{j}/depthwise_conv": "blocks.0.{j-1}.conv_dw",
        "stage1_block{j}/depthwise_norm": "blocks.0.{j-1}.bn1",
        "stage1_block{j}/project_conv": "blocks.0.{j-1}.conv_pw",
        "stage1_block{j}/project_norm": "blocks.0.{j-1}.bn2",
        "stage{i}_block{j}/expand_conv": "blocks.{i-1}.{j-1}.conv_pw",
        "stage{i}_block{j}/expand_norm": "blocks.{i-1}.{j-1}.bn1",
        "stage{i}_block{j}/depthwise_conv": "blocks.{i-1}.{j-1}.conv_dw",
        "stage{i}_block{j}/depthwise_norm": "blocks.{i-1}.{j-1}.bn2",
        "stage{i}_block{j}/squeeze_excite/reduce": "blocks.{i-1}.{j-1}.se.conv_reduce",
        "stage{i}_block{j}/squeeze_excite/expand": "blocks.{i-1}.{j-1}.se.conv_expand",
        "stage{i}_block{j}/project_conv": "blocks.{i-1}.{j-1}.conv_pwl",
        "stage{i}_block{j}/project_norm": "blocks.{i-1}.{j-1}.bn3",
        "head_conv": "conv_head",
        "head_norm": "bn2",
        "head": "classifier",
    },
    dense=("classifier",),
)

#: A parameter or a statistic of a layer, by its name here; kernels and biases aside.
TENSOR_NAMES: Mapping[str, str] = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "v": "v",
    "threshold": "tau",
    "mean": "running_mean",
    "var": "running_var",
}
