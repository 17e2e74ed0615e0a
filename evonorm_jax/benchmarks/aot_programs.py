"""The programs of the aot suite: single layers, blocks, and training steps of whole networks.

All programs take 128 images a device, in bfloat16. Nothing is computed: arguments are shapes, and
devices may be compile-only ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from evonorm_jax.benchmarks import rivals
from evonorm_jax.benchmarks.compile_only import Target
from evonorm_jax.benchmarks.layer_program import forward_then_backward
from evonorm_jax.benchmarks.machine import slug
from evonorm_jax.data import create_pipeline, dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model
from evonorm_jax.models.convolution import conv2d
from evonorm_jax.models.resnet import BottleneckBlock
from evonorm_jax.models.weight_decay import decay_mask
from evonorm_jax.norm_act import norm_act
from evonorm_jax.training.parallel import AXIS
from evonorm_jax.training.state import create_train_state, initial_variables
from evonorm_jax.training.steps import step_key
from evonorm_jax.training.tasks.classification import make_train_step

#: Scope that the layers are traced in, by which `hlo_traffic.Kernel.is_within` finds their kernels.
LAYER_SCOPE = "norm_act_layer"

BATCH = 128
DTYPE = jnp.bfloat16

BASELINE = "BN-ReLU, Flax"
PLAIN = "EvoNorm-S0, plain"
#: The hand-written kernel, on GPUs alone.
PALLAS = "EvoNorm-S0, Pallas"
#: The same, which adds the gradients of the shortcuts too.
PALLAS_SHORTCUT = "EvoNorm-S0, Pallas with shortcut"
LAYERS: Mapping[str, functools.partial] = {
    BASELINE: norm_act(rivals.FlaxBatchNormReLU),
    "BN-ReLU": norm_act("bn_relu"),
    "GN-ReLU": norm_act("gn_relu"),
    "EvoNorm-B0": norm_act("evonorm_b0"),
    "EvoNorm-S0": norm_act("evonorm_s0", implementation="xla"),
    PLAIN: norm_act("evonorm_s0", implementation="reference"),
    PALLAS: norm_act("evonorm_s0", implementation="pallas"),
    PALLAS_SHORTCUT: norm_act("evonorm_s0", implementation="pallas_shortcut"),
}
_ON_GPUS_ALONE = (PALLAS, PALLAS_SHORTCUT)
_IN_NETWORKS = tuple(name for name in LAYERS if name != PLAIN)

#: Wide, middling and narrow maps of a ResNet-50.
LAYER_SHAPES = ((BATCH, 56, 56, 64), (BATCH, 28, 28, 512), (BATCH, 7, 7, 2048))
#: Map and channels of the 3x3 convolution; the block's input has four times as many.
BLOCKS = ((56, 64), (14, 256))

# As the recipes of configs/recipes.py, at a fixed learning rate.
_SGD = optax.chain(
    optax.add_decayed_weights(1e-4, mask=decay_mask), optax.sgd(0.1, momentum=0.9, nesterov=True)
)
_RMSPROP = optax.chain(
    optax.add_decayed_weights(1e-5, mask=decay_mask),
    optax.rmsprop(0.016, decay=0.9, eps=1e-3, initial_scale=1.0, eps_in_sqrt=True, momentum=0.9),
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train, on images of 224 pixels in 1000 classes.

    Attributes:
      model: Name of the network, as `create_model` takes it.
      fields: Fields of the network.
      optimizer: Optimizer of the training step.
      step_fields: Further arguments of `make_train_step`.
      layers: Names in `LAYERS`; the network is compiled with each of these layers in turn.
    """

    model: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: optax.GradientTransformation = _SGD
    step_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layers: tuple[str, ...] = _IN_NETWORKS


_mobile = functools.partial(
    Network,
    optimizer=_RMSPROP,
    step_fields={"label_smoothing": 0.1, "ema_decay": 0.9999},
    layers=(BASELINE, "BN-ReLU", "EvoNorm-B0", "EvoNorm-S0"),
)
NETWORKS: Mapping[str, Network] = {
    "resnet50": Network("resnet50"),
    "resnet50_remat": Network("resnet50", {"remat": True}, layers=(BASELINE, "EvoNorm-S0")),
    "mobilenet_v2": _mobile("mobilenet_v2", {"dropout_rate": 0.2}),
    "efficientnet_b0": _mobile(
        "efficientnet_b0", {"dropout_rate": 0.2, "survival_probability": 0.8}
    ),
}
#: One bottleneck block between stem and head: four layers on maps of 56 x 56.
SMALL_NETWORKS: Mapping[str, Network] = {"small_resnet": Network("resnet50", {"stage_sizes": (1,)})}


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program that has been traced and lowered.

    Attributes:
      program: Lowered program, ready to be compiled.
      layer_bytes: Bytes of x, summed over all norm-activation layers of one device.
    """

    program: jax.stages.Lowered
    layer_bytes: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to compile, one line of the report.

    Attributes:
      group: Table of the report.
      case: What the layer is compiled in, such as the network "resnet50".
      contender: Name of the layer in `LAYERS`.
      lower: Traces and lowers the program for devices.
    """

    group: str
    case: str
    contender: str
    lower: Callable[[Sequence[jax.Device]], Lowered]

    @property
    def name(self) -> str:
        """The name by which `--programs` chooses the program."""
        return f"{self.case}/{slug(self.contender)}"


def find_programs(target: Target, *, quick: bool) -> tuple[Program, ...]:
    """Returns all programs of a target.

    They are training steps of whole networks; for `quick`, they are layers, blocks and the training
    step of a small network.
    """
    found: list[Program] = []
    networks = SMALL_NETWORKS if quick else NETWORKS
    if quick and target.compiles_parts:
        for shape in LAYER_SHAPES:
            case = f"layer_{'x'.join(map(str, shape))}"
            found += [
                Program("layers", case, name, functools.partial(lower_layer, factory, shape))
                for name, factory in LAYERS.items()
                if name != PALLAS_SHORTCUT  # a layer by itself has no shortcut
            ]
        for size, filters in BLOCKS:
            case = f"block_{size}x{size}x{4 * filters}"
            found += [
                Program(
                    "blocks", case, name, functools.partial(lower_block, factory, size, filters)
                )
                for name, factory in LAYERS.items()
            ]
    for case, network in networks.items():
        found += [
            Program("training steps", case, name, functools.partial(lower_step, network, factory))
            for name, factory in LAYERS.items()
            if name in network.layers
        ]
    on_gpu = target.platform == "gpu"
    return tuple(p for p in found if on_gpu or p.contender not in _ON_GPUS_ALONE)


def choose_programs(
    programs: Sequence[Program], patterns: Sequence[str] = ()
) -> tuple[Program, ...]:
    """Returns the programs whose name matches one of the patterns; all for ().

    Raises:
      UserError: A pattern matches no program.
    """
    names = [program.name for program in programs]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--programs: {pattern!r} matches none of {', '.join(names)}.")
    return tuple(
        program
        for program in programs
        if not patterns or any(fnmatch.fnmatchcase(program.name, p) for p in patterns)
    )


def lower_layer(
    factory: functools.partial, shape: tuple[int, ...], devices: Sequence[jax.Device]
) -> Lowered:
    """Lowers the forward and backward pass of a layer, x `[N, H, W, C]`, for the first device."""
    return _lower_module(factory(use_running_average=False), factory, shape, devices[0])


def lower_block(
    factory: functools.partial, size: int, filters: int, devices: Sequence[jax.Device]
) -> Lowered:
    """Lowers the forward and backward pass of a bottleneck block for the first device."""
    block = BottleneckBlock(
        filters,
        conv=functools.partial(conv2d, dtype=DTYPE),
        norm_act=functools.partial(factory, use_running_average=False, dtype=DTYPE),
    )
    return _lower_module(block, factory, (BATCH, size, size, 4 * filters), devices[0])


def lower_step(
    network: Network, factory: functools.partial, devices: Sequence[jax.Device]
) -> Lowered:
    """Lowers the training step as training makes it, mapped over the devices by `shard_map`.

    Training maps it by `jax.pmap`, which compiles only for the devices of this process; the devices
    here may belong to many processes.
    """
    sizes = {"num_train_examples": BATCH, "num_eval_examples": 1, "num_classes": 1000}
    pipeline = create_pipeline(dataset_config("imagenet2012", "fake", **sizes), seed=0)
    model = create_model(network.model, pipeline.num_classes, factory, DTYPE, **network.fields)
    step = make_train_step(
        model, network.optimizer, pipeline, per_device=BATCH, **network.step_fields
    )

    def draw() -> Any:
        variables = initial_variables(model, pipeline.image_shape, seed=0)
        use_ema = network.step_fields.get("ema_decay", 0) > 0
        return create_train_state(variables, network.optimizer, use_ema=use_ema)

    images = BATCH * len(devices)
    batch = {
        "image": jax.ShapeDtypeStruct((images, *pipeline.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((images,), jnp.int32),
    }
    mesh = Mesh(np.array(devices), (AXIS,))
    whole, share = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        lambda state, batch: step(state, {}, batch, step_key(0, state.step)),
        mesh=mesh,
        in_specs=(whole, share),
        out_specs=whole,
        check_vma=False,  # as pmap: that all returned values agree, the step promises
    )
    state = _placed(jax.eval_shape(draw), NamedSharding(mesh, whole))
    with marked_layers(factory) as layer_bytes:
        program = jax.jit(mapped, donate_argnums=0).lower(
            state, _placed(batch, NamedSharding(mesh, share))
        )
    return Lowered(program, sum(layer_bytes.values()))


@contextlib.contextmanager
def marked_layers(factory: functools.partial) -> Iterator[dict[tuple[str, ...], int]]:
    """Traces a factory's layers in the scope `LAYER_SCOPE`, and records the bytes of their x."""
    sizes: dict[tuple[str, ...], int] = {}
    layer: Any = factory.func

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if not isinstance(module, layer) or context.method_name != "__call__":
            return call(*args, **kwargs)
        sizes[module.path] = args[0].size * args[0].dtype.itemsize  # once, however often traced
        with jax.named_scope(LAYER_SCOPE):
            return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield sizes


def _lower_module(
    module: nn.Module, factory: functools.partial, shape: tuple[int, ...], device: jax.Device
) -> Lowered:
    x = jax.ShapeDtypeStruct(shape, DTYPE)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def program(x: jax.Array, params: Any, state: Any, dy: jax.Array) -> Any:
        def forward(x: jax.Array, params: Any) -> Any:
            return module.apply(
                {"params": params, "batch_stats": state}, x, mutable=["batch_stats"]
            )

        return forward_then_backward(forward, x, params, dy)

    # As inside a network, where the compiler chooses the layout of x and y: a TPU's own choice for
    # arguments and results would add copies of them, a fifth of all bytes in a block.
    layout = Format(Layout.AUTO, SingleDeviceSharding(device))
    with marked_layers(factory) as layer_bytes:
        lowered = jax.jit(program, in_shardings=layout, out_shardings=layout).lower(
            x, variables["params"], variables.get("batch_stats", {}), x
        )
    return Lowered(lowered, sum(layer_bytes.values()))


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
