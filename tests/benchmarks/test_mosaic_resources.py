import os

import pytest

from evonorm_jax.benchmarks.mosaic_resources import Resources, parse_report, record_resources

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'forward_kernel' for 'sm_90a'
ptxas info    : Function properties for forward_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 87 registers, used 16 barriers, 1 bytes smem
ptxas info    : Compile time = 53.302 ms

ptxas info    : Compiling entry function 'backward_kernel' for 'sm_90a'
ptxas info    : Function properties for backward_kernel
    32 bytes stack frame, 40 bytes spill stores, 64 bytes spill loads
ptxas info    : Used 255 registers, used 16 barriers, 1 bytes smem
"""
EXPECTED = [Resources("forward_kernel", 87, 0), Resources("backward_kernel", 255, 104)]


def test_report_of_two_kernels():
    assert parse_report(REPORT) == EXPECTED
    assert parse_report("nothing was compiled\n") == []


def test_what_the_compiler_prints_is_read_and_the_rest_passed_on(capfd, monkeypatch):
    monkeypatch.delenv("MOSAIC_GPU_DUMP_PTXAS", raising=False)
    with record_resources() as found:
        assert os.environ["MOSAIC_GPU_DUMP_PTXAS"] == "1"
        os.write(1, REPORT.encode())  # past sys.stdout, as compiled code does
        os.write(1, b"somebody else\n")
    assert found == EXPECTED
    assert capfd.readouterr().out == "somebody else\n"
    assert "MOSAIC_GPU_DUMP_PTXAS" not in os.environ
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


def test_output_comes_back_after_an_error(capfd, monkeypatch):
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "0")
    with pytest.raises(KeyError), record_resources():
        raise KeyError("compiler")
    os.write(1, b"afterwards\n")
    assert capfd.readouterr().out == "afterwards\n"
    assert os.environ["MOSAIC_GPU_DUMP_PTXAS"] == "0"
