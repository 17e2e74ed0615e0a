"""Runs a launcher as a user does: in a process of its own, from the repository root."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(num_devices: int = 1) -> dict[str, str]:
    """The environment of a launcher with that many virtual CPU devices, which compiles quickly."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "PYTHONWARNINGS": "error",
    }


def start(
    module: str, *arguments: str, num_devices: int = 1, warnings: str = "error"
) -> subprocess.Popen:
    """Starts `python -m experiments.MODULE ARGUMENTS...`; stdout and stderr are pipes of text."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env=environment(num_devices) | {"PYTHONWARNINGS": warnings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two_hosts(*arguments: str, num_devices: int = 1) -> list[subprocess.Popen]:
    """Starts `python -m experiments.train ARGUMENTS...` on two hosts of so many devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            *("train", *arguments, f"--coordinator_address={address}", "--num_processes=2"),
            f"--process_id={index}",
            num_devices=num_devices,
        )
        for index in range(2)
    ]


def run(module: str, *arguments: str, num_devices: int = 1) -> subprocess.CompletedProcess:
    """As `start`, to the end."""
    process = start(module, *arguments, num_devices=num_devices)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def measure(*arguments: str) -> tuple[str, float]:
    """What a command of Python prints, and the most memory that it took, in megabytes.

    The seconds of CPU that it took are printed, for those who want to know.
    """
    code = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime); sys.exit(code)"
    )
    # A process between, whose only child it is.
    command = [sys.executable, "-c", code, sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stdout, _, last = done.stdout.rstrip().rpartition("\n")
    megabytes, seconds = map(float, last.split())
    print(f"{' '.join(arguments)[:80]}: {seconds:.1f} s of CPU, {megabytes:.0f} MB")
    return stdout, megabytes


def wait_for_checkpoint(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Returns once a checkpoint of that step or a later one is finished."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
        if found and max(found) >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no checkpoint within 120 s")
