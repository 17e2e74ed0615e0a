"""A Ray within this process: its actors are objects, which do what they are asked when it is."""

import time
import types


class RayError(Exception):
    """The base of Ray's errors."""


class FakeRay(types.ModuleType):
    """Stands in for the module `ray`.

    Args:
      nodes: Resources of each node.
    """

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, nodes):
        super().__init__("ray")
        self.started = {}  # what it was started with
        self.asked = []  # resources of each actor
        self.dying = []  # names of the methods at which the next actors die
        self._nodes = nodes

    def init(self, **fields):
        self.started = fields

    def shutdown(self):
        self.started = {}

    def nodes(self):
        return [
            {"NodeID": str(i), "Alive": True, "Resources": resources}
            for i, resources in enumerate(self._nodes)
        ]

    def remote(self, **options):
        def make(thing):
            if not isinstance(thing, type):
                return _Function(thing)
            return types.SimpleNamespace(remote=lambda: self._create(thing, options))

        return make

    def wait(self, references, timeout):
        return list(references), []

    def get(self, reference, timeout=None):
        return reference()

    def kill(self, actor):
        actor.dead = True

    def _create(self, kind, options):
        self.asked.append((options["num_cpus"], options["num_gpus"]))
        return _Actor(kind(), self.dying.pop(0) if self.dying else None)


class _Function:
    def __init__(self, function):
        self.options = lambda **_: self
        self.remote = lambda *arguments: lambda: function(*arguments)


class _Actor:
    """Calls the methods of an object, until it is dead."""

    def __init__(self, instance, dies_at):
        self._instance = instance
        self._dies_at = dies_at
        self.dead = False

    def __getattr__(self, name):
        def call(*arguments):
            if name == self._dies_at:
                self.dead = True
                self._end_run()
            if self.dead:
                raise RayError("The node of this actor has died.")
            return getattr(self._instance, name)(*arguments)

        def remote(*arguments):
            if name in ("stop", "kill"):  # whose answers nobody asks for
                call(*arguments)
            return lambda: call(*arguments)

        return types.SimpleNamespace(remote=remote)

    def _end_run(self):
        """The process of the run ends with its actor."""
        run = self._instance._run
        if run is not None:
            run.kill()
            while run.poll() is None:
                time.sleep(0.01)
