"""The runs of a batch-size experiment, which several sweeps share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.recipes import layer_overrides

# The layers of the paper's batch-size experiment (arXiv v1, Table 3).
BATCH_SIZE_LAYERS = (
    "bn_relu",
    "gn_relu",
    "gn_swish",
    "frn",
    "evonorm_s0",
    "evonorm_s1",
    "evonorm_s2",
)


def batch_size_sweep(
    norm_acts: Sequence[str],
    images_per_worker: Sequence[int],
    *,
    num_seeds: int,
    group_size: int = 0,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    arg: str = "",
) -> Iterator[dict[str, Any]]:
    """Yields the overrides of every run of a batch-size experiment.

    Nothing else changes between the columns: the learning rate is per 256 images and durations are
    in epochs. Seed by seed, so that a sweep cut short has whole figures of fewer seeds.

    Args:
      norm_acts: Names of layers.
      images_per_worker: Sizes, in the order they are to run in.
      num_seeds: Number of seeds 0, 1, ...
      group_size: Channels per group of the layers that have groups; 0 leaves their default.
      fields: More fields of single layers, by their name.
      arg: Argument of the config; "smoke" leaves two layers, two sizes and one seed of the sweep.
    """
    if "smoke" in arg.split(","):
        norm_acts, images_per_worker, num_seeds = (norm_acts[0], norm_acts[-1]), (4, 2), 1
    for seed in range(num_seeds):
        for images in images_per_worker:
            for norm_act in norm_acts:
                layer = layer_overrides(norm_act, group_size=group_size)
                for field, value in (fields or {}).get(norm_act, {}).items():
                    layer[f"model.norm_act_fields.{field}"] = value
                yield layer | {"images_per_worker": images, "seed": seed}


def split_batch_sweep(
    norm_acts: Sequence[str],
    images_per_worker: Sequence[int],
    *,
    batch_size: int,
    num_seeds: int,
    group_size: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yields the overrides of runs that split one batch among few or many workers.

    Nothing changes but the number of images whose statistics BatchNorm takes together.

    Args:
      norm_acts: Names of layers.
      images_per_worker: Sizes, in the order they are to run in; each divides the batch.
      batch_size: Images of a step, over all workers.
      num_seeds: Number of seeds 0, 1, ...
      group_size: Channels per group of the layers that have groups; 0 leaves their default.
    """
    for seed in range(num_seeds):
        for images in images_per_worker:
            for norm_act in norm_acts:
                yield {
                    **layer_overrides(norm_act, group_size=group_size),
                    "num_workers": batch_size // images,
                    "images_per_worker": images,
                    "seed": seed,
                }
