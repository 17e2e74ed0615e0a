"""Weights that timm has published: where they are and which images they were trained with.

Each is a repository of its own among those of "timm" on the Hugging Face Hub, for example
timm/resnet50.a1_in1k, with the file model.safetensors. The table holds the facts of timm 1.0.31
(its `default_cfgs`) for all networks of `TIMM_MODELS`. Weights without a classifier are left out,
and efficientnet_b5.sw_in12k_ft_in1k, whose images are squashed to a square.

>>> weights = find_weights("resnetv2_50d_evos.ah_in1k")
>>> weights.repository, weights.mean, weights.test_size, weights.test_resize_size
('timm/resnetv2_50d_evos.ah_in1k', (127.5, 127.5, 127.5), 288, 288)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from evonorm_jax.errors import UserError
from evonorm_jax.interop.timm_models import find_timm_model

#: The file of weights in a repository.
HUB_FILE = "model.safetensors"

_Channels = tuple[float, float, float]

# Mean and standard deviation of red, green and blue, in units of 0 ... 255.
_SCALES: Mapping[str, tuple[_Channels, _Channels]] = MappingProxyType(
    {
        "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    }
)


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """One file of weights.

    Attributes:
      name: Name of the network and tag of the weights in timm, such as "resnet50.a1_in1k".
      mean: Mean of red, green and blue that images are shifted by, in units of 0 ... 255.
      std: Standard deviation that they are divided by, in the same units.
      train_size: Height and width in pixels of the images in training.
      train_crop: Share of the resized image's shorter side that an evaluation at that size keeps.
      test_size: Height and width in pixels at which timm evaluates.
      test_crop: Share that is kept at that size.
      interpolation: Filter that timm resizes with, antialiased: "bicubic" or "bilinear".
      licence: Licence of the weights, as an SPDX identifier.
    """

    name: str
    mean: _Channels
    std: _Channels
    train_size: int
    train_crop: float
    test_size: int
    test_crop: float
    interpolation: str
    licence: str

    @property
    def repository(self) -> str:
        """Name of the repository on the Hugging Face Hub."""
        return f"timm/{self.name}"

    @property
    def test_resize_size(self) -> int:
        """Pixels of the shorter side before the centre crop of `test_size`, as timm rounds."""
        return math.floor(self.test_size / self.test_crop)


# Name, mean and std, size and crop in training, size and crop in tests, interpolation, licence.
_TABLE = """
resnet18.a1_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet18.a2_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet18.a3_in1k                    imagenet  160  0.95   224  0.95   bicubic   apache-2.0
resnet18.tv_in1k                    imagenet  224  0.875  224  0.875  bilinear  bsd-3-clause
resnet18.fb_ssl_yfcc100m_ft_in1k    imagenet  224  0.875  224  0.875  bilinear  cc-by-nc-4.0
resnet18.fb_swsl_ig1b_ft_in1k       imagenet  224  0.875  224  0.875  bilinear  cc-by-nc-4.0
resnet18.gluon_in1k                 imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnet34.a1_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet34.a2_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet34.a3_in1k                    imagenet  160  0.95   224  0.95   bicubic   apache-2.0
resnet34.bt_in1k                    imagenet  224  0.875  288  0.95   bicubic   apache-2.0
resnet34.ra4_e3600_r224_in1k        half      224  0.9    288  1.0    bicubic   apache-2.0
resnet34.tv_in1k                    imagenet  224  0.875  224  0.875  bilinear  bsd-3-clause
resnet34.gluon_in1k                 imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnet50.a1_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.a1h_in1k                   imagenet  176  0.9    224  1.0    bicubic   apache-2.0
resnet50.a2_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.a3_in1k                    imagenet  160  0.95   224  0.95   bicubic   apache-2.0
resnet50.b1k_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.b2k_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.c1_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.c2_in1k                    imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.d_in1k                     imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50.ram_in1k                   imagenet  224  0.875  288  0.95   bicubic   apache-2.0
resnet50.am_in1k                    imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnet50.ra_in1k                    imagenet  224  0.875  288  0.95   bicubic   apache-2.0
resnet50.bt_in1k                    imagenet  224  0.875  288  0.95   bicubic   apache-2.0
resnet50.tv_in1k                    imagenet  224  0.875  224  0.875  bilinear  bsd-3-clause
resnet50.tv2_in1k                   imagenet  176  0.875  224  0.965  bilinear  bsd-3-clause
resnet50.fb_ssl_yfcc100m_ft_in1k    imagenet  224  0.875  224  0.875  bilinear  cc-by-nc-4.0
resnet50.fb_swsl_ig1b_ft_in1k       imagenet  224  0.875  224  0.875  bilinear  cc-by-nc-4.0
resnet50.gluon_in1k                 imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnet50d.ra2_in1k                  imagenet  224  0.875  288  0.95   bicubic   apache-2.0
resnet50d.ra4_e3600_r224_in1k       half      224  0.95   288  1.0    bicubic   apache-2.0
resnet50d.a1_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50d.a2_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet50d.a3_in1k                   imagenet  160  0.95   224  0.95   bicubic   apache-2.0
resnet50d.gluon_in1k                imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnet101.a1h_in1k                  imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet101.a1_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet101.a2_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet101.a3_in1k                   imagenet  160  0.95   224  0.95   bicubic   apache-2.0
resnet101.tv_in1k                   imagenet  224  0.875  224  0.875  bilinear  bsd-3-clause
resnet101.tv2_in1k                  imagenet  176  0.875  224  0.965  bilinear  bsd-3-clause
resnet101.gluon_in1k                imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnet152.a1h_in1k                  imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet152.a1_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet152.a2_in1k                   imagenet  224  0.95   288  1.0    bicubic   apache-2.0
resnet152.a3_in1k                   imagenet  160  0.95   224  0.95   bicubic   apache-2.0
resnet152.tv_in1k                   imagenet  224  0.875  224  0.875  bilinear  bsd-3-clause
resnet152.tv2_in1k                  imagenet  176  0.875  224  0.965  bilinear  bsd-3-clause
resnet152.gluon_in1k                imagenet  224  0.875  224  0.875  bicubic   apache-2.0
resnetv2_50.a1h_in1k                half      224  0.95   288  1.0    bicubic   apache-2.0
resnetv2_50d_gn.ah_in1k             half      224  0.95   288  1.0    bicubic   apache-2.0
resnetv2_50d_evos.ah_in1k           half      224  0.95   288  1.0    bicubic   apache-2.0
resnetv2_101.a1h_in1k               half      224  0.95   288  1.0    bicubic   apache-2.0
mobilenetv2_050.lamb_in1k           imagenet  224  0.875  224  0.875  bicubic   apache-2.0
mobilenetv2_100.ra_in1k             imagenet  224  0.875  224  0.875  bicubic   apache-2.0
mobilenetv2_140.ra_in1k             imagenet  224  0.875  224  0.875  bicubic   apache-2.0
mnasnet_100.rmsp_in1k               imagenet  224  0.875  224  0.875  bicubic   apache-2.0
efficientnet_b0.ra_in1k             imagenet  224  0.875  224  0.875  bicubic   apache-2.0
efficientnet_b0.ra4_e3600_r224_in1k half      224  0.9    256  1.0    bicubic   apache-2.0
efficientnet_b1.ra4_e3600_r240_in1k half      240  0.9    288  1.0    bicubic   apache-2.0
efficientnet_b1.ft_in1k             imagenet  224  0.875  256  1.0    bicubic   apache-2.0
efficientnet_b2.ra_in1k             imagenet  256  0.875  288  1.0    bicubic   apache-2.0
efficientnet_b3.ra2_in1k            imagenet  288  0.875  320  1.0    bicubic   apache-2.0
efficientnet_b4.ra2_in1k            imagenet  320  0.875  384  1.0    bicubic   apache-2.0
efficientnet_b5.sw_in12k            imagenet  416  0.95   416  0.95   bicubic   apache-2.0
tf_efficientnet_b0.ns_jft_in1k      imagenet  224  0.875  224  0.875  bicubic   apache-2.0
tf_efficientnet_b0.ap_in1k          half      224  0.875  224  0.875  bicubic   apache-2.0
tf_efficientnet_b0.aa_in1k          imagenet  224  0.875  224  0.875  bicubic   apache-2.0
tf_efficientnet_b0.in1k             imagenet  224  0.875  224  0.875  bicubic   apache-2.0
tf_efficientnet_b1.ns_jft_in1k      imagenet  240  0.882  240  0.882  bicubic   apache-2.0
tf_efficientnet_b1.ap_in1k          half      240  0.882  240  0.882  bicubic   apache-2.0
tf_efficientnet_b1.aa_in1k          imagenet  240  0.882  240  0.882  bicubic   apache-2.0
tf_efficientnet_b1.in1k             imagenet  240  0.882  240  0.882  bicubic   apache-2.0
tf_efficientnet_b2.ns_jft_in1k      imagenet  260  0.89   260  0.89   bicubic   apache-2.0
tf_efficientnet_b2.ap_in1k          half      260  0.89   260  0.89   bicubic   apache-2.0
tf_efficientnet_b2.aa_in1k          imagenet  260  0.89   260  0.89   bicubic   apache-2.0
tf_efficientnet_b2.in1k             imagenet  260  0.89   260  0.89   bicubic   apache-2.0
tf_efficientnet_b3.ns_jft_in1k      imagenet  300  0.904  300  0.904  bicubic   apache-2.0
tf_efficientnet_b3.ap_in1k          half      300  0.904  300  0.904  bicubic   apache-2.0
tf_efficientnet_b3.aa_in1k          imagenet  300  0.904  300  0.904  bicubic   apache-2.0
tf_efficientnet_b3.in1k             imagenet  300  0.904  300  0.904  bicubic   apache-2.0
tf_efficientnet_b4.ns_jft_in1k      imagenet  380  0.922  380  0.922  bicubic   apache-2.0
tf_efficientnet_b4.ap_in1k          half      380  0.922  380  0.922  bicubic   apache-2.0
tf_efficientnet_b4.aa_in1k          imagenet  380  0.922  380  0.922  bicubic   apache-2.0
tf_efficientnet_b4.in1k             imagenet  380  0.922  380  0.922  bicubic   apache-2.0
tf_efficientnet_b5.ns_jft_in1k      imagenet  456  0.934  456  0.934  bicubic   apache-2.0
tf_efficientnet_b5.ap_in1k          half      456  0.934  456  0.934  bicubic   apache-2.0
tf_efficientnet_b5.ra_in1k          imagenet  456  0.934  456  0.934  bicubic   apache-2.0
tf_efficientnet_b5.aa_in1k          imagenet  456  0.934  456  0.934  bicubic   apache-2.0
tf_efficientnet_b5.in1k             imagenet  456  0.934  456  0.934  bicubic   apache-2.0
tf_efficientnet_b6.ns_jft_in1k      imagenet  528  0.942  528  0.942  bicubic   apache-2.0
tf_efficientnet_b6.ap_in1k          half      528  0.942  528  0.942  bicubic   apache-2.0
tf_efficientnet_b6.aa_in1k          imagenet  528  0.942  528  0.942  bicubic   apache-2.0
tf_efficientnet_b7.ns_jft_in1k      imagenet  600  0.949  600  0.949  bicubic   apache-2.0
tf_efficientnet_b7.ap_in1k          half      600  0.949  600  0.949  bicubic   apache-2.0
tf_efficientnet_b7.ra_in1k          imagenet  600  0.949  600  0.949  bicubic   apache-2.0
tf_efficientnet_b7.aa_in1k          imagenet  600  0.949  600  0.949  bicubic   apache-2.0
"""


def _parse(row: str) -> PretrainedWeights:
    name, scale, train_size, train_crop, test_size, test_crop, interpolation, licence = row.split()
    return PretrainedWeights(
        name,
        *_SCALES[scale],
        int(train_size),
        float(train_crop),
        int(test_size),
        float(test_crop),
        interpolation,
        licence,
    )


#: Name and tag in timm -> the weights.
PRETRAINED: Mapping[str, PretrainedWeights] = MappingProxyType(
    {weights.name: weights for weights in map(_parse, _TABLE.strip().splitlines())}
)


def find_weights(name: str) -> PretrainedWeights:
    """Returns the row of a name with its tag.

    Raises:
      UserError: There are no such weights; the message lists those of that network.
    """
    if name in PRETRAINED:
        return PRETRAINED[name]
    find_timm_model(name)  # raises where the network has no twin
    architecture = name.partition(".")[0]
    known = _tags(architecture)
    if not known:
        raise UserError(f"timm has published no weights of {architecture}, or none that fit here.")
    close = difflib.get_close_matches(name, known, n=1) if "." in name else []
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"timm has no weights {name!r}.{hint} Of this network: {', '.join(known)}.")


def weights_of(name: str) -> PretrainedWeights | None:
    """Returns what is known of weights that a name stands for, or None.

    A name without a tag stands for weights alone where all of that network want the same images.

    >>> weights_of("mobilenetv2_100").name
    'mobilenetv2_100.ra_in1k'
    >>> weights_of("resnet50")  # of eighteen files
    """
    if name in PRETRAINED:
        return PRETRAINED[name]
    known = _tags(name)
    return PRETRAINED[known[0]] if len(known) == 1 else None


def name_of_file(path: str | Path) -> str:
    """Returns the name that a file of weights bears, "" where that is none of `PRETRAINED`.

    >>> name_of_file("weights/resnet50.a1_in1k.safetensors")
    'resnet50.a1_in1k'
    """
    name = Path(path).name.removesuffix(".safetensors")
    return name if name in PRETRAINED else ""


def _tags(architecture: str) -> list[str]:
    return [name for name in PRETRAINED if name.partition(".")[0] == architecture]
