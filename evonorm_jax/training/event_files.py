"""TensorBoard's event files of a run that is resumed: each step once, as in `metrics.jsonl`.

An event file is a sequence of records: length (8 bytes), its checksum (4), the event, its checksum
(4); TensorFlow's `tfrecord` format. Records are copied as they are, so wall times stay.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

from evonorm_jax.run_files import replacing

_PATTERN = "events.out.tfevents.*"
_LENGTH, _CHECKSUM_BYTES = struct.Struct("<Q"), 4


def drop_events_after(workdir: Path, step: int) -> int:
    """Removes the events past `step`, which a resumed run makes again; returns how many.

    What a kill has cut short at the end of a file, or damage, goes as well. Where TensorBoard is
    not installed, the files stay as they are.
    """
    files = sorted(workdir.glob(_PATTERN))
    if not files:
        return 0
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        return 0
    dropped = 0
    for path in files:
        size = path.stat().st_size
        kept = []
        for record, event in _records(path):
            try:
                late = Event.FromString(event).step > step
            except DecodeError:  # no event: what follows cannot be trusted either
                break
            dropped += late
            if not late:
                kept.append(record)
        if sum(map(len, kept)) < size:
            with replacing(path) as temporary:
                temporary.write_bytes(b"".join(kept))
    return dropped


def _records(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Reads whole records with the events in them, up to the first that is cut short."""
    with path.open("rb") as stream, contextlib.suppress(struct.error):
        while header := stream.read(_LENGTH.size + _CHECKSUM_BYTES):
            (length,) = _LENGTH.unpack_from(header)
            if length > path.stat().st_size:  # not a record
                return
            body = stream.read(length + _CHECKSUM_BYTES)
            if len(body) < length + _CHECKSUM_BYTES:
                return
            yield header + body, body[:length]
