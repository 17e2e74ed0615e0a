"""What EvoNorm-S0 costs in a small network, by the count of compilers: it must not rise.

A limit that fails is the news that a change has made programs dearer: look at the figures of
`python -m experiments.benchmark --suite aot --quick` before and after it. A change that makes them
cheaper lowers the limits with it.
"""

import jax
import pytest

from evonorm_jax.benchmarks import aot, compile_only
from evonorm_jax.benchmarks.aot_programs import (
    LAYERS,
    PLAIN,
    SMALL_NETWORKS,
    Program,
    lower_block,
    lower_step,
)
from evonorm_jax.errors import UserError
from evonorm_jax.kernels import platforms

pytestmark = pytest.mark.aot

#: Passes of the layers and memory traffic in GB, by JAX 0.11.2 and libtpu 0.0.48.
GPU_NETWORK = (8.478, 6.807)
TPU_BLOCK = (2.040, 0.5384)
#: Less than the 1.6 % of the network's bytes that plain differentiation of the layer adds.
TOLERANCE = 1.01


@pytest.fixture(autouse=True)
def no_compile_cache():
    """A program for a device that is not there cannot be loaded again."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The tests have eight CPU devices, over which a program by `jit` might be laid."""
    monkeypatch.setattr(platforms, "is_partitioned", lambda: False)


def count(target_name, lower):
    target = compile_only.TARGETS[target_name]
    try:
        devices = compile_only.find_devices(target)
    except UserError as error:
        pytest.skip(str(error))
    result = aot.compile_program(Program("", "", "", lower), target, devices)
    assert not result.note
    return result.figures[aot.PASSES], result.figures[aot.TRAFFIC]


def count_gpu_network(layer):
    """Training step of a small network on an H100."""
    network = SMALL_NETWORKS["small_resnet"]
    return count("h100", lambda devices: lower_step(network, LAYERS[layer], devices))


def test_a_network_on_a_gpu_costs_no_more_than_it_did():
    passes, traffic = count_gpu_network("EvoNorm-S0")
    assert passes <= TOLERANCE * GPU_NETWORK[0]
    assert traffic <= TOLERANCE * GPU_NETWORK[1]


def test_the_limits_tell_a_layer_that_is_not_fused():
    passes, traffic = count_gpu_network(PLAIN)
    assert passes > TOLERANCE * GPU_NETWORK[0]
    assert traffic > TOLERANCE * GPU_NETWORK[1]


def test_a_block_on_a_tpu_costs_no_more_than_it_did():
    """Not a network: the convolutions around it alone take the compiler a minute."""
    layer = LAYERS["EvoNorm-S0"]
    passes, traffic = count("tpu-v5e-2x2", lambda devices: lower_block(layer, 14, 256, devices))
    assert passes <= TOLERANCE * TPU_BLOCK[0]
    assert traffic <= TOLERANCE * TPU_BLOCK[1]
