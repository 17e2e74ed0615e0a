"""`sweep.jsonl` in the folder of a sweep: which command ran it, where, and for how long."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

SWEEP_FILE = "sweep.jsonl"


def record(root: Path, event: str, **fields: Any) -> None:
    """Appends one event; one write, so that several sweeps on a folder do not mix their lines."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    row = {"event": event, "time": now, "pid": os.getpid(), **fields}
    with (root / SWEEP_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def invocation() -> list[str]:
    """The command of this process, without the folder of its interpreter."""
    return [Path(sys.executable).name, *sys.orig_argv[1:]]


def machine() -> str:
    """Cores and kind of the processor, such as `2 x AMD EPYC`."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    return f"{os.cpu_count()} x {model}"
