"""What the searches on CIFAR-10 share: every field, and the forms in which they run.

    (none)  the paper's budget, for a cluster: 5,000 workers of two cores took two days
    small   smaller networks and shorter training, for one GPU
    tiny    for two CPU cores
    deep    for CPUs, too, in a network where normalization matters: 160 steps at 8 x 8 pixels,
            which TFDS does not have; 96 layers scored took half an hour of one core
    smoke   seconds: the built-in digits and next to no training, to see everything work

`tfds`, `folder` and `npz` say where CIFAR-10 comes from: `tiny,npz`.

The paper gives the batch size, the crops, the optimizer, the number of steps, the schedules, both
rejections and the number of layers ranked again. All else is our choice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs.arguments import parse_words
from evonorm_jax.data import dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.protocol import DEFAULT_FILTERS, AbortRule, ProxyProtocol, Stability
from evonorm_jax.search.run.proxy_ranking import LONG_TRAINING, PROXIES

FORMS = ("small", "tiny", "deep", "smoke")
SOURCES = ("tfds", "folder", "npz")

# Ours, all of them. Evolution needs several times its population to get anywhere, so the number of
# scored layers is 8 and, where time is short, 4 or 6 times that. Of a small population 5 % would be
# nobody.
_SEARCH = {
    "": {"population_size": 2_500, "tournament_fraction": 0.05, "max_scored": 20_000},
    "small": {"population_size": 64, "tournament_fraction": 0.1, "max_scored": 512},
    "tiny": {"population_size": 8, "tournament_fraction": 0.5, "max_scored": 32},
    "deep": {"population_size": 16, "tournament_fraction": 0.2, "max_scored": 96},
    "smoke": {"population_size": 2, "tournament_fraction": 1.0, "max_scored": 4},
}
# Ours, all of them. Shorter training in the same schedule; the paper's length is that of its form.
_STEPS_DIVISOR = {"": 1, "small": 4, "tiny": 20}
# Ours. Measured on the tiny networks (results/search/false_rejects). In the small MobileNetV2 the
# early one would end BN-ReLU, whose loss is 2.37 by then and which passes
# (results/search/known_layers_small). In the deep network FRN is the slowest of the known layers
# that train, with 2.31 by step 40 and 2.13 by step 60 (results/search/proxy_ranking).
_EARLY, _LATE = AbortRule(20, 10, 2.32), AbortRule(50, 10, 2.30)
_ABORT_RULES = {
    "": (_LATE,),
    "small": (_LATE,),
    "tiny": (_EARLY, _LATE),
    "deep": (AbortRule(60, 10, 2.30),),
}
# Of the stability test, on the first network; the paper's 100 cost as much as the training there.
_STABILITY_STEPS = {"": 100, "small": 100, "tiny": 20, "deep": 20}
# Ours. The proxy by which `experiments.proxy_ranking` ranked layers best.
_DEEP = PROXIES["mobile"].protocol


def search_config(arg: str, *, batch_moments: bool, num_steps: int, schedule: str) -> ConfigDict:
    """Makes the config of a search on CIFAR-10.

    Args:
      arg: One of `FORMS`, one of `SOURCES`, both of them joined by a comma, or "".
      batch_moments: True for the B series, False for the S series.
      num_steps: Training steps of a candidate on each network.
      schedule: Schedule of its learning rate, "constant" or "cosine".

    Raises:
      UserError: There is anything else in `arg`, or the form needs another source.
    """
    arg, source = parse_words(arg, FORMS, SOURCES)
    config = ConfigDict()
    config.seed = 0
    config.search = ConfigDict(
        {
            "strategy": "evolution",  # or "random": random search, with the same rejections
            "criterion": "pareto",  # or "average"; the paper compares both and takes "pareto"
            "skip_neutral": True,  # a mutation that changes no effective node costs no candidate
            "max_candidates": None,  # the search ends at this or at max_scored, whichever is first
            **_SEARCH[arg],
        }
    )
    config.space = ConfigDict(
        {"num_nodes": 10, "batch_moments": batch_moments, "whole_graph": False}
    )
    config.protocol = ConfigDict(_protocol(arg, num_steps, schedule).to_dict())
    config.dataset = _dataset(arg, source)
    config.rerank = ConfigDict(
        {
            "num_candidates": 10,  # the paper's, and so are the three winners
            "num_winners": 3,
            "num_seeds": 1,
            "protocol": _rerank_protocol(arg, num_steps).to_dict(),
        }
    )
    return config


def random_layers_config(arg: str) -> ConfigDict:
    """Random layers, all of which are scored that see x: what diverges, with that of guessing."""
    config = search_config(arg, batch_moments=True, num_steps=2_000, schedule="constant")
    config.search.strategy = "random"
    form, _ = parse_words(arg, FORMS, SOURCES)
    config.search.max_scored = {"": 5_000, "small": 500, "tiny": 100, "deep": 100, "smoke": 4}[form]
    config.protocol.filters = None
    config.protocol.abort_rules = []
    config.protocol.quality_accuracy = 0.0
    config.protocol.nonfinite_rejects = False
    config.protocol.stability.num_steps = 0
    return config


def _protocol(arg: str, num_steps: int, schedule: str) -> ProxyProtocol:
    if arg == "smoke":
        return _smoke_protocol(num_steps=2, schedule=schedule)
    rejections: dict[str, Any] = {
        "stability": Stability(num_steps=_STABILITY_STEPS[arg]),
        "abort_rules": _ABORT_RULES[arg],
    }
    if arg == "deep":  # 15 % instead of 20, because 80 steps are few
        rejections |= {"quality_accuracy": 15.0, "nonfinite_rejects": True}
        return dataclasses.replace(_DEEP, filters=DEFAULT_FILTERS, **rejections)
    return ProxyProtocol(
        anchors=ANCHOR_SIZES[arg or "full"],
        num_steps=num_steps // _STEPS_DIVISOR[arg],
        schedule=schedule,
        **rejections,
    )


def _rerank_protocol(arg: str, num_steps: int) -> ProxyProtocol:
    """Ours: four times the steps, all with a cosine, in networks of the next size.

    The deep form takes the long training that its protocol was ranked by. The paper ranks them
    again on ImageNet.
    """
    if arg == "smoke":
        return _smoke_protocol(num_steps=4, schedule="cosine")
    if arg == "deep":  # a ranking rejects nothing; this rejects as in the other forms
        rejections: dict[str, Any] = {
            "filters": DEFAULT_FILTERS,
            "nonfinite_rejects": True,
            "quality_steps": 100,
        }
        return dataclasses.replace(LONG_TRAINING.protocol, **rejections)
    return ProxyProtocol(
        anchors=ANCHOR_SIZES[{"": "full", "small": "full", "tiny": "small"}[arg]],
        num_steps=4 * num_steps // _STEPS_DIVISOR[arg],
        schedule="cosine",
        stability=Stability(num_steps=0),  # they have passed it, and the quality check as well
        quality_accuracy=0.0,
        abort_rules=(),
    )


def _smoke_protocol(**fields: Any) -> ProxyProtocol:
    return ProxyProtocol(
        anchors=(Anchor("resnet50_cifar", {"stage_sizes": (1,), "num_filters": 8}),),
        crop_size=0,
        batch_size=8,
        eval_batch_size=180,
        quality_steps=1,
        quality_accuracy=0.0,
        quality_examples=180,
        stability=Stability(num_steps=1),
        abort_rules=(),
        **fields,
    )


def _dataset(arg: str, source: str) -> ConfigDict:
    if arg == "smoke" and not source:
        return dataset_config("digits", "embedded")
    # A tenth of the training images is held out to choose layers by; the size is our choice. The
    # test images are for what is trained in the end.
    fields: dict[str, Any] = {"train_split": "train[:90%]", "eval_split": "train[90%:]"}
    if arg == "deep":
        if source not in ("folder", "npz"):
            raise UserError(
                "The form 'deep' trains on 8 x 8 pixels, which TFDS does not have: take "
                "deep,folder or deep,npz. Of a class folder, experiments.prepare_data "
                "--from_folder=FOLDER --image_size=8 --npz=FILE makes the file."
            )
        fields |= {"image_size": 8, "pad": 1}
    return dataset_config("cifar10", source or "tfds", **fields)
