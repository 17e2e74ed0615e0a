"""Drives a search: it proposes, filters, has the rest evaluated, and records everything.

With one worker the same seed gives the same search. With several, results come in whatever order
the evaluations end. The ledger keeps that order, so that a resumed search goes on from exactly the
state in which it was killed.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import block, check_fields, check_known, check_plain, seed
from evonorm_jax.search.engine.filters import Duplicates, screen
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.verdicts import DecidingStage, Rejection, Verdict
from evonorm_jax.search.evolution.search_state import FIELDS as SEARCH_FIELDS
from evonorm_jax.search.evolution.search_state import Search, SearchConfig, replay
from evonorm_jax.search.evolution.space import FIELDS as SPACE_FIELDS
from evonorm_jax.search.evolution.space import SearchSpace
from evonorm_jax.search.run.executor import Executor
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_reader import LedgerContents, search_events, to_result
from evonorm_jax.search.run.worker import Trial

#: How many candidates may be rejected without training in succession. One in 25 random graphs is
#: trained, so after that many the space is used up.
MAX_REJECTIONS = 20_000

#: How many candidates of a ledger are proposed again at a resume. It takes 0.3 ms each.
NUM_CHECKED = 2_000

#: Seconds between two looks at whether to stop.
_POLL_SECONDS = 0.2

#: Seconds of cheap rejections between two commits; a kill makes the search repeat at most those.
_COMMIT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search is made of.

    Attributes:
      search: How it proposes candidates.
      space: What it draws them from.
      protocol: How candidates are filtered, trained and judged. Without filters everything that
        depends on x is evaluated, duplicates included.
    """

    search: SearchConfig
    space: SearchSpace
    protocol: ProxyProtocol

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchSettings:
        """Reads the settings of a config file, given as nested dictionaries.

        Raises:
          UserError: A field is missing, unknown, of another type or out of range.
        """
        blocks = {name: block() for name in ("search", "space", "protocol")}
        check_fields(config, {"seed": seed(), **blocks}, "config")
        check_plain(config, "config")
        own = [name for name in SEARCH_FIELDS if name not in ("seed", "num_scores")]
        check_known(config["search"], own, "search")
        check_known(config["space"], list(SPACE_FIELDS), "space")
        protocol = ProxyProtocol.from_dict(config["protocol"])
        fields = {"seed": config["seed"], "num_scores": len(protocol.anchors), **config["search"]}
        return cls(SearchConfig(**fields), SearchSpace(**config["space"]), protocol)


class Driver:
    """Keeps a search and its ledger in step.

    Args:
      settings: What the search is made of.
      ledger: An open ledger; the search goes on from what it holds.
      executor: Evaluates the candidates that the filters let through.
      show: Is called often with the search and the number of workers that have died.

    Raises:
      UserError: The ledger is not that of these settings.
    """

    def __init__(
        self,
        settings: SearchSettings,
        ledger: Ledger,
        executor: Executor,
        show: Callable[[Search, int], None],
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.executor = executor
        self._show = show
        contents = ledger.contents()
        self.search = resume_search(settings, contents)
        self._duplicates = Duplicates()
        entries = contents.entries
        for number, function in enumerate(entries.functions):
            if function is not None:
                self._duplicates.check(function, candidate=number)
        self._waiting = deque(
            Trial(
                pending.id, pending.graph, entries.seeds[pending.id], entries.functions[pending.id]
            )
            for pending in self.search.pending
        )
        self._num_results = len(entries.ids)

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Searches until the budget is used up or it is asked to stop.

        Evaluations that have not ended by then are left to the next start.

        Returns:
          Whether the search has ended.
        """
        while not should_stop():
            while self.executor.has_room and not should_stop():
                trial = self._waiting.popleft() if self._waiting else self._propose(should_stop)
                if trial is None:
                    break
                self.executor.submit(trial)
            if not self.executor.num_unfinished and not should_stop():
                self._show(self.search, self.executor.deaths)
                return True
            for outcome in self.executor.wait(_POLL_SECONDS):
                self._record(outcome.trial.id, outcome.verdict)
                self.ledger.commit()
            self._show(self.search, self.executor.deaths)
        return False

    def _propose(self, should_stop: Callable[[], bool]) -> Trial | None:
        """Proposes the next candidate that no filter rejects; None at the end of the budget.

        Raises:
          UserError: There seems to be none.
        """
        last_commit = time.monotonic()
        trial, num_rejected = None, 0
        while trial is None and not should_stop():
            candidate = self.search.ask()
            if candidate is None:
                break
            started = time.perf_counter()
            rejection, function = screen(
                candidate.graph, candidate.id, self.settings.protocol.filters, self._duplicates
            )
            seed = evaluation_seed(self.settings.search.seed, candidate.id)
            self.ledger.add_candidate(
                candidate, seed=seed, function=function, results_before=self._num_results
            )
            if rejection is None:
                trial = Trial(candidate.id, candidate.graph, seed, function)
            else:
                seconds = time.perf_counter() - started
                self._record(candidate.id, _rejected(rejection, seconds))
                num_rejected += 1
                if num_rejected == MAX_REJECTIONS:
                    self.ledger.commit()
                    raise _used_up(self.settings.space, rejection)
            if time.monotonic() - last_commit > _COMMIT_SECONDS:
                self.ledger.commit()
                self._show(self.search, self.executor.deaths)
                last_commit = time.monotonic()
        self.ledger.commit()
        return trial

    def _record(self, candidate: int, verdict: Verdict) -> None:
        result = to_result(candidate, verdict, self.settings.protocol.anchor_names)
        self.search.tell(candidate, scores=result.scores, rejected=result.rejected)
        self.ledger.add_result(candidate, verdict, place=self._num_results)
        self._num_results += 1


def resume_search(settings: SearchSettings, contents: LedgerContents) -> Search:
    """Rebuilds the search in the state that its ledger describes.

    Of a ledger with more than twice `NUM_CHECKED` candidates, so many are proposed again to see
    that they are those of this search, evenly spread; of a smaller one all.

    Raises:
      UserError: The search would have proposed other candidates.
    """
    events = search_events(contents.entries, settings.protocol.anchor_names)
    # The budget may have been made smaller since; what was proposed stays.
    unlimited = dataclasses.replace(
        settings.search, max_candidates=len(contents.entries) + 1, max_scored=None
    )
    check_every = max(1, len(contents.entries) // NUM_CHECKED)
    search = replay(unlimited, settings.space, events, check_every)
    search.config = settings.search
    return search


def evaluation_seed(search_seed: int, candidate: int) -> int:
    """Returns the seed of a candidate's evaluation, a number below 2**31 unrelated to the others.

    >>> evaluation_seed(0, 0), evaluation_seed(0, 1)
    (1484405855, 1982462498)
    """
    sequence = np.random.SeedSequence([search_seed, candidate])
    return int(sequence.generate_state(1)[0]) >> 1


def _used_up(space: SearchSpace, last: Rejection) -> UserError:
    return UserError(
        f"{MAX_REJECTIONS:,} candidates in succession were rejected without training, the last as "
        f"{last.reason}: the space of num_nodes={space.num_nodes} seems to hold no more. Search a "
        "larger one, or end with search.max_candidates."
    )


def _rejected(rejection: Rejection, seconds: float) -> Verdict:
    details = {"message": rejection.detail} if rejection.detail else {}
    return Verdict(
        stage=str(DecidingStage.FILTERS),
        reason=str(rejection.reason),
        scores={},
        seconds=seconds,
        steps=0,
        details=details,
    )
