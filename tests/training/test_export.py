"""The ResNet-50 training step as one program for CPU, NVIDIA GPU and TPU, without the devices."""

import jax
import jax.export
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from configs import imagenet_r50_evonorm_b0, imagenet_r50_evonorm_s0
from evonorm_jax.data import dataset_config
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.parallel import AXIS
from evonorm_jax.training.steps import step_key
from evonorm_jax.training.tasks.classification import make_train_step

PLATFORMS = ("cpu", "cuda", "tpu")
WORKERS, IMAGES_PER_WORKER = 2, 4


@pytest.mark.parametrize("config_file", [imagenet_r50_evonorm_s0, imagenet_r50_evonorm_b0])
def test_resnet50_train_step_exports(config_file):
    config = config_file.get_config()
    size = {"image_size": 224, "num_classes": 1000}
    examples = {"num_train_examples": 8, "num_eval_examples": 8}
    config.dataset = dataset_config("imagenet2012", "fake", in_memory=True, **size, **examples)
    config.num_workers, config.images_per_worker = WORKERS, IMAGES_PER_WORKER
    run = create_experiment(config, jax.devices()[:1])
    train_step = make_train_step(
        run.task.model,
        run.task.optimizer,
        run.pipeline,
        per_device=WORKERS * IMAGES_PER_WORKER,
    )

    def step(state, resident, batch):
        return train_step(state, resident, batch, step_key(0, state.step))

    # `pmap` does not export; a `shard_map` over the same axis traces the same step.
    on_devices = jax.shard_map(
        step,
        mesh=Mesh(np.array(jax.devices()[:1]), (AXIS,)),
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    state, resident = run.state_shapes(), jax.eval_shape(run.pipeline.resident)
    batch = {"index": jax.ShapeDtypeStruct((WORKERS * IMAGES_PER_WORKER,), "int32")}

    exported = jax.export.export(jax.jit(on_devices), platforms=PLATFORMS)(state, resident, batch)

    assert exported.platforms == PLATFORMS
    new_state, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)  # noqa: E731
    assert shapes(new_state) == shapes(state)
    assert set(metrics) == {"loss", "top1", "grad_norm"}
