"""Joining a Ray cluster: what a cluster of this machine is for, signals, and messages.

The tests marked `cluster` start one: `pip install -e ".[cluster]"` and `pytest -m cluster`.
"""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from evonorm_jax import ray_cluster
from evonorm_jax.errors import UserError
from evonorm_jax.ray_cluster import connect


def test_without_ray_there_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--ray needs Ray, .* pip install ray .* leave --ray out"):
        connect("auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_without_a_cluster_there_is_one_message(address, monkeypatch):
    """At once, and not after the minutes for which Ray would go on trying."""
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=None))
    with pytest.raises(UserError, match=f"--ray={address}: there is no Ray cluster.*refused"):
        connect(address)


def test_a_node_that_does_not_start_is_one_message(monkeypatch):
    def init(**fields):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    monkeypatch.setattr(ray_cluster, "_LOCAL_ENVIRONMENT", {})
    with pytest.raises(UserError, match=r"^--ray=local: Ray does not start .*\(The current node t"):
        connect("local")


@pytest.fixture
def fake_ray(monkeypatch):
    """A Ray that takes the signals, as the real one does, and notes how it was started."""
    started = []
    for name in ray_cluster._LOCAL_ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is unset again at the end
        monkeypatch.delenv(name)

    def init(**fields):
        environment = {name: os.environ.get(name) for name in ray_cluster._LOCAL_ENVIRONMENT}
        started.append(fields | environment)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    return started


@pytest.fixture
def heard(monkeypatch):
    """The signals that a handler of this process has heard."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_signals_stay_with_the_driver(fake_ray, heard):
    interrupt = signal.getsignal(signal.SIGINT)
    connect("local")
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) == interrupt


def test_a_signal_while_ray_starts_ends_the_driver(fake_ray, heard, monkeypatch):
    init = sys.modules["ray"].init

    def init_and_be_told_to_end(**fields):
        init(**fields)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sys.modules["ray"], "init", init_and_be_told_to_end)
    with pytest.raises(SystemExit) as error:
        connect("local")
    assert error.value.code == 128 + signal.SIGTERM


@pytest.mark.hostile
def test_a_cluster_of_this_machine_is_for_nobody_else(fake_ray):
    connect("local")
    assert fake_ray[0]["_node_ip_address"] == "127.0.0.1"
    assert fake_ray[0]["include_dashboard"] is False
    assert fake_ray[0]["RAY_AUTH_MODE"] == "token"
    assert fake_ray[0]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_a_cluster_elsewhere_is_taken_as_it_is(fake_ray):
    connect("auto")
    assert "_node_ip_address" not in fake_ray[0]
    assert fake_ray[0]["RAY_AUTH_MODE"] is None
    assert fake_ray[0]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] is None


_LISTENING = """
import os, subprocess, sys
from pathlib import Path
from evonorm_jax.ray_cluster import connect
ray = connect("local")
mine, session = [], os.getsid(0)
for path in Path("/proc").glob("[0-9]*"):
    try:
        if os.getsid(int(path.name)) == session:
            mine += [os.readlink(link) for link in (path / "fd").iterdir()]
    except OSError:
        pass  # it has just ended
inodes = {link[8:-1] for link in mine if link.startswith("socket:")}
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:  # 0A: it listens
            print("listens", fields[1].partition(":")[0])
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
# As the kernel writes 127.0.0.1, ::ffff:127.0.0.1 and ::1.
_LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
_JOIN = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print('joined')"


@pytest.mark.cluster
@pytest.mark.hostile
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_real_one_listens_on_the_loopback_device_and_asks_for_the_token(tmp_path):
    pytest.importorskip("ray")
    # A home of its own, in which Ray makes a token.
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONWARNINGS": "default"}
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _LISTENING],
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        addresses = []
        for line in process.stdout:
            kind, address = line.split()
            if kind == "address":
                break
            addresses.append(address)
        assert len(addresses) >= 4  # those of the store, the raylet, its agents and the driver
        assert set(addresses) <= _LOOPBACK
        token = (tmp_path / ".ray" / "auth_token").read_text()
        outcomes = {}
        for shown in (token, "0" * len(token)):
            joined = subprocess.run(
                [sys.executable, "-c", _JOIN, address],
                cwd=tmp_path,
                env=environment | ray_cluster._LOCAL_ENVIRONMENT | {"RAY_AUTH_TOKEN": shown},
                capture_output=True,
                text=True,
                timeout=120,
            )
            outcomes[shown == token] = joined
        assert outcomes[True].stdout == "joined\n", outcomes[True].stderr
        assert outcomes[False].returncode != 0
        assert "token" in outcomes[False].stderr.lower()
    finally:
        process.communicate(timeout=60)
