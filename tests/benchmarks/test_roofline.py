import pytest

from evonorm_jax.benchmarks.compile_only import TARGETS
from evonorm_jax.benchmarks.hlo import Instruction
from evonorm_jax.benchmarks.hlo_traffic import Kernel
from evonorm_jax.benchmarks.roofline import CHIPS, Chip, least_seconds

CHIP = Chip(bandwidth=100.0, peak=1000.0, memory=1.0, source="a data sheet")
LINE = Instruction("y", "fusion", (), (), "", is_root=True)


def kernel(read, written, flops, count=1):
    return Kernel(LINE, (), read, written, flops, count)


def test_each_kernel_is_bound_by_memory_or_by_arithmetic():
    by_memory = kernel(30, 20, 100.0)  # 0.5 s against 0.1 s
    by_arithmetic = kernel(5, 5, 300.0)  # 0.1 s against 0.3 s
    assert least_seconds([by_memory], CHIP) == pytest.approx(0.5)
    assert least_seconds([by_arithmetic], CHIP) == pytest.approx(0.3)
    # Not max(0.6, 0.4): one kernel does not run while another waits for memory.
    assert least_seconds([by_memory, by_arithmetic], CHIP) == pytest.approx(0.8)


def test_a_kernel_in_a_loop_counts_as_often_as_it_runs():
    assert least_seconds([kernel(30, 20, 100.0, count=4)], CHIP) == pytest.approx(2.0)
    assert least_seconds([kernel(5, 5, 300.0, count=4)], CHIP) == pytest.approx(1.2)


def test_every_target_has_a_chip_with_a_source():
    assert {target.chip for target in TARGETS.values()} == set(CHIPS)
    for chip in CHIPS.values():
        assert chip.source in chip.description
        # Matrix units of all of them do 100 to 600 FLOPs for each byte that the memory gives.
        assert 100 < chip.peak / chip.bandwidth < 600
