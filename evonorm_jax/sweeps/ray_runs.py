"""The runs of a sweep on a Ray cluster: an actor for each, and the run as a process beside it.

The actor takes the lock of the run's folder, starts the process on the node that Ray has chosen,
and tells the sweep how it ends. If the actor dies, as with its node, the process ends with it, and
the sweep runs the cell again. The sweep reads what the runs have written, so that it needs a file
system that it shares with the nodes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.placement import CORES_PER_RUN, Place, memory_of_share
from evonorm_jax.ray_cluster import connect
from evonorm_jax.run_files import SWEEP_FILE
from evonorm_jax.run_lock import owner, try_lock
from evonorm_jax.sweeps.cells import Cell
from evonorm_jax.sweeps.process import RunProcess
from evonorm_jax.sweeps.run import Outcome, RunEnd

_WAIT_SECONDS = 1.0  # for which an actor hears nothing else; so a stop may take as long
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 120.0
_CLOSE_SECONDS = 60.0  # to save a checkpoint in

#: What an actor says: "started" with the name of the node, "waiting", "ended" with a `RunEnd`, or
#: "unusable" with what its node lacks.
_Message = tuple[str, Any]


class RayRuns:
    """Runs on a Ray cluster, each with resources of its own on one node; for a `with` block.

    Args:
      address: The address of the cluster, see `ray_cluster.connect`.
      arguments: Gives the arguments that Python runs a cell with.
      jobs: Runs at a time; None for as many as the cluster has room for.
      cpus: CPU cores of a run; None for one beside a GPU, else for two, or one on nodes with one.
      gpus: GPUs of a run, such as 2 or 0.5; None for one where the cluster has GPUs, else for none.

    Raises:
      UserError: Ray is not installed, no cluster is at the address, or it has too little room.
    """

    def __init__(
        self,
        address: str,
        arguments: Callable[[Cell], Sequence[str]],
        jobs: int | None = None,
        cpus: int | None = None,
        gpus: float | None = None,
    ):
        _check_share(cpus, gpus)
        self._ray = connect(address)
        self._arguments = arguments
        self._runs: list[_RayRun] = []
        self._looked = False
        try:
            nodes = {n["NodeID"]: n["Resources"] for n in self._ray.nodes() if n["Alive"]}
            self._share = _share(list(nodes.values()), cpus, gpus)
            rooms = {node: _room(resources, self._share) for node, resources in nodes.items()}
            number = _number(sum(rooms.values()), jobs, self._share)
        except BaseException:
            self._ray.shutdown()
            raise
        self._nodes = [node for node, room in rooms.items() if room]
        self.places = [Place("Ray", memory_of_share(self._share["GPU"] or 1.0))] * number

    def __enter__(self) -> RayRuns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, cell: Cell, lock: int, place: Place) -> _RayRun:
        """Starts a run, see `Runs.start`; it waits until a node has room.

        Raises:
          UserError: A node does not share the sweep's folders.
        """
        os.close(lock)  # the actor takes it on its node
        folder, mark = Path.cwd(), _first_line(cell.root)
        if not self._looked:
            self._look_at_nodes(folder, cell.root, mark)
            self._looked = True
        actor = self._ray.remote(
            max_restarts=0,
            max_task_retries=0,
            num_cpus=self._share["CPU"],
            num_gpus=self._share["GPU"],
        )(_RunActor).remote()
        first = actor.start.remote(cell, self._arguments(cell), place, folder, mark)
        run = _RayRun(self._ray, actor, first, cell, place)
        self._runs.append(run)
        return run

    def close(self) -> None:
        """Leaves the cluster, after the runs that were asked to end have had time to save."""
        end = time.monotonic() + _CLOSE_SECONDS
        while any(run.goes_on() for run in self._runs) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        self._ray.shutdown()

    def _look_at_nodes(self, folder: Path, root: Path, mark: bytes | None) -> None:
        """Looks on every node that has room for a run whether it has the folders of the sweep."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        look = self._ray.remote(num_cpus=0, max_retries=0)(_look)
        answers = [
            look.options(
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(folder, root, mark)
            for node in self._nodes
        ]
        for node, answer in zip(self._nodes, answers, strict=True):
            try:
                lacking = self._ray.get(answer, timeout=_LOOK_SECONDS)
            except self._ray.exceptions.RayError as error:
                raise UserError(
                    f"Node {node} of the Ray cluster does not answer: {error}"
                ) from error
            if lacking:
                raise UserError(lacking)


class _RayRun:
    """A run on the cluster, as the sweep sees it; see `Run`."""

    def __init__(self, ray: Any, actor: Any, first: Any, cell: Cell, place: Place):
        self.cell = cell
        self.place = place
        self.where = ""
        self.started = time.time()
        self.stopping = False
        self._ray = ray
        self._actor = actor
        self._reference = first  # what the actor owes
        self._end: RunEnd | None = None

    @property
    def seconds(self) -> float:
        return time.time() - self.started

    def poll(self) -> RunEnd | None:
        if self._end is not None or not self._ray.wait([self._reference], timeout=0)[0]:
            return self._end
        try:
            kind, content = self._ray.get(self._reference)
        except self._ray.exceptions.RayError as error:
            said = next(iter(str(error).strip().splitlines()), "")
            kind, how = "ended", f"{type(error).__name__}: {said}"
            content = RunEnd(Outcome.FINISHED if self.cell.is_finished() else Outcome.LOST, how)
        if kind in ("ended", "unusable"):
            self._end = content if kind == "ended" else RunEnd(Outcome.FAILED, content)
            self._ray.kill(self._actor)
        if kind == "unusable":
            raise UserError(content)
        if kind == "started":
            self.where, self.started = content, time.time()
        if self._end is None:
            self._reference = self._actor.wait.remote()
        return self._end

    def stop(self) -> None:
        self.stopping = True
        if self.where:
            self._actor.stop.remote()
        else:  # it may wait for room for ever
            self._ray.kill(self._actor)

    def kill(self) -> None:
        if self.where:
            self._actor.kill.remote()
        else:
            self._ray.kill(self._actor)

    def goes_on(self) -> bool:
        """Whether a run that was asked to end has not done so yet."""
        with contextlib.suppress(UserError):  # one was raised already
            return self.stopping and self.poll() is None
        return False


class _RunActor:
    """The class of the actors: it runs one cell as a process of its node."""

    def __init__(self) -> None:
        self._run: RunProcess | None = None

    def start(
        self, cell: Cell, arguments: Sequence[str], place: Place, folder: Path, mark: bytes | None
    ) -> _Message:
        """Starts the run, unless it is finished or goes on elsewhere by now."""
        if lacking := _look(folder, cell.root, mark):
            return "unusable", lacking
        try:
            lock = try_lock(cell.workdir)
            if lock is None:
                return "ended", RunEnd(Outcome.ELSEWHERE, owner(cell.workdir))
            if cell.is_finished():
                os.close(lock)
                return "ended", RunEnd(Outcome.FINISHED)
            self._run = RunProcess(cell, arguments, lock, place)
        except (OSError, UserError) as error:
            return "unusable", f"Node {socket.gethostname()} of the Ray cluster: {error}"
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")  # which Ray sets
        return "started", ", GPU ".join(filter(None, (socket.gethostname(), gpus)))

    def wait(self) -> _Message:
        """Waits for the end of the run, but not for long."""
        assert self._run is not None
        limit = time.monotonic() + _WAIT_SECONDS
        while (end := self._run.poll()) is None and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
        return ("waiting", None) if end is None else ("ended", end)

    def stop(self) -> None:
        if self._run is not None:
            self._run.stop()

    def kill(self) -> None:
        if self._run is not None:
            self._run.kill()


def _look(folder: Path, root: Path, mark: bytes | None) -> str | None:
    """Enters the folder of the sweep's process, where relative paths mean the same.

    Returns:
      What this node lacks; None if it has everything.
    """
    try:
        os.chdir(folder)
        lacking = "" if _first_line(root) == mark else f"--workdir={root} is another folder there"
    except OSError as error:
        lacking = (
            f"there is no folder {folder}, from which the sweep was started ({error.strerror})"
        )
    if not lacking:
        return None
    return (
        f"Node {socket.gethostname()} of the Ray cluster does not share the sweep's files: "
        f"{lacking}. Start the sweep in a clone, and with a --workdir, that are at the same path "
        "of a shared file system on all nodes and here; or leave --ray out."
    )


def _first_line(root: Path) -> bytes | None:
    """The first start in the folder of a sweep, which no other folder has."""
    try:
        with (root / SWEEP_FILE).open("rb") as history:
            return history.readline()
    except OSError:
        return None


def _check_share(cpus: int | None, gpus: float | None) -> None:
    """Refuses resources that no run can have."""
    if cpus is not None and cpus < 1:
        raise UserError(f"--cpus_per_run={cpus}: a run needs at least one core.")
    if gpus is not None and not (0 <= gpus < 1 or gpus in range(1, 1025)):
        raise UserError(
            f"--gpus_per_run={gpus:g}: a run takes a whole number of GPUs, or a part of one, such "
            "as 0.5."
        )


def _share(
    nodes: Sequence[Mapping[str, float]], cpus: int | None, gpus: float | None
) -> dict[str, float]:
    """Returns the resources of a run.

    >>> _share([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 32.0}], None, None)
    {'CPU': 1, 'GPU': 1}
    >>> _share([{"CPU": 1.0}, {}], None, None)
    {'CPU': 1, 'GPU': 0}
    """
    if gpus is None:
        gpus = 1 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0
    if cpus is None:
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        cpus = 1 if gpus else max(1, min(CORES_PER_RUN, largest))
    return {"CPU": cpus, "GPU": gpus}


def _room(resources: Mapping[str, float], share: Mapping[str, float]) -> int:
    """Returns how many runs a node has room for.

    >>> _room({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1, "GPU": 0.4}), _room({"CPU": 3.0}, {"CPU": 2})
    (4, 1)
    """
    numbers = []
    for kind, wanted in share.items():
        available = resources.get(kind, 0.0)
        if 0 < wanted < 1:  # Ray splits no part over two GPUs
            numbers.append(int(available) * int(1 / wanted))
        elif wanted:
            numbers.append(int(available / wanted))
    return min(numbers)


def _number(room: int, jobs: int | None, share: Mapping[str, float]) -> int:
    """Returns the number of runs at a time."""
    each = f"{share['CPU']:g} CPU and {share['GPU']:g} GPU"
    if not room:
        raise UserError(
            f"No node of this Ray cluster has room for a run, which takes {each}. --cpus_per_run "
            "and --gpus_per_run ask for less."
        )
    number = room if jobs is None else jobs
    if not 1 <= number <= room:
        raise UserError(
            f"--jobs={jobs}: this Ray cluster has room for 1 to {room} runs of {each} each."
        )
    return number
