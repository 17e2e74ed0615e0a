"""What runs in a worker: it builds an evaluator once, and evaluates one trial after the other."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.engine.engine import Engine
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.verdicts import Verdict

#: A pure function with the arguments of `Engine.evaluate`: graph, seed and functional hash.
Evaluate = Callable[[Graph, int, str | None], Verdict]

#: What a worker says: "ready" when it is built, or "unusable" (the user's mistake) or "broken" (any
#: other exception) if it cannot be; then of each trial "done" or "failed". The second item is the
#: process id, the message, the verdict or the traceback.
Message = tuple[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """An evaluation to make.

    Attributes:
      id: Names the outcome; no two trials in an executor share it.
      graph: The graph to evaluate.
      seed: The seed of the evaluation.
      function: The functional hash of a graph that has passed the filters; None for one that the
        evaluator is to filter and hash.
    """

    id: Any
    graph: Graph
    seed: int
    function: str | None = None


@dataclasses.dataclass(frozen=True)
class EngineFactory:
    """Builds the engine in a worker: small to send, and JAX starts where it is called.

    Attributes:
      protocol: How candidates are trained and judged.
      dataset: `config.dataset`, as a dictionary.
    """

    protocol: ProxyProtocol
    dataset: Mapping[str, Any]

    def __call__(self) -> Evaluate:
        """Builds the engine and returns what evaluates by it."""
        return Engine(self.protocol, ConfigDict(self.dataset)).evaluate


def build(make_evaluate: Callable[[], Evaluate]) -> tuple[Evaluate | None, Message]:
    """Builds the evaluator of a worker; returns it, if it can be built, and what to say."""
    try:
        return make_evaluate(), ("ready", os.getpid())
    except UserError as error:
        return None, ("unusable", str(error))
    except Exception:
        return None, ("broken", traceback.format_exc())


def attempt(evaluate: Evaluate, trial: Trial) -> Message:
    """Evaluates a trial in a worker; returns what to say."""
    try:
        return "done", evaluate(trial.graph, trial.seed, trial.function)
    except Exception:
        return "failed", traceback.format_exc(limit=-8)
