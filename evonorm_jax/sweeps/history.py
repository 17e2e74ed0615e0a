"""`sweep.jsonl` in the folder of a sweep: which commands ran it, on which machine, for how long."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from evonorm_jax.provenance import now
from evonorm_jax.run_files import SWEEP_FILE, append_json_line


def record_event(root: Path, event: str, **fields: Any) -> None:
    """Appends one event; several sweeps on a folder do not mix their lines.

    Args:
      root: Folder of the sweep.
      event: "start" or "end".
      **fields: What else is noted of it.
    """
    row = {"event": event, "time": now(), "pid": os.getpid(), **fields}
    append_json_line(root / SWEEP_FILE, row)
