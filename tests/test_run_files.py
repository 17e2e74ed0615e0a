"""Files of runs are written whole, and read whatever state they are in."""

import json
import os
import random

import numpy as np
import pytest

from evonorm_jax import run_files
from evonorm_jax.errors import UserError
from evonorm_jax.interop.safetensors_file import write_safetensors


def test_json_files_are_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    run_files.write_json(path, {"a": 1})
    run_files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    run_files.write_json(path, {"a": 1})

    def write_half():
        with run_files.replacing(path) as temporary:
            temporary.write_text("half")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_modes_follow_the_umask(tmp_path):
    path, tensors = tmp_path / "summary.json", tmp_path / "weights.safetensors"
    before = os.umask(0o002)
    try:
        run_files.write_json(path, {})
        write_safetensors({"weight": np.ones(2, np.float32)}, tensors)
    finally:
        os.umask(before)
    assert [file.stat().st_mode & 0o777 for file in (path, tensors)] == [0o664, 0o664]


def test_what_is_not_an_object_is_refused(tmp_path):
    path = tmp_path / "config.json"
    for text, message in (("{", "is not valid JSON"), ("[]", "must hold a JSON object, not list")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            run_files.read_json(path)
        assert run_files.read_json_or_empty(path) == {}
    path.unlink()
    assert run_files.read_json_or_empty(path) == {}


def test_lines_are_read_with_what_a_kill_has_left(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert list(run_files.read_json_lines(path)) == []
    path.write_bytes(b'{"step": 1}\n\n[2]\n{"name": "a\xe2\x80\xa8b"}\n{"step": 3, "ti')
    lines = list(run_files.read_json_lines(path))
    assert [line.number for line in lines] == [1, 3, 4, 5]
    # The line separator inside the third string is no line break of the file.
    assert [line.row for line in lines] == [{"step": 1}, None, {"name": "a\u2028b"}, None]
    assert lines[-1].text == '{"step": 3, "ti'


def test_the_end_of_a_file_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {i}}}\n' for i in range(10)))  # 12 bytes each
    last = list(run_files.read_json_lines(path, last_bytes=30))
    assert [line.row for line in last] == [None, {"step": 8}, {"step": 9}]
    whole = run_files.read_json_lines(path, last_bytes=10_000)
    assert len(list(whole)) == 10


def test_lines_are_appended(tmp_path):
    path = tmp_path / "sweep.jsonl"
    run_files.append_json_line(path, {"event": "start"})
    run_files.append_json_line(path, {"event": "end"})
    assert [line.row["event"] for line in run_files.read_json_lines(path)] == ["start", "end"]


HEADING, REPORT = "# A report", "# A report\n\nof numbers\n"


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, "README.md"),
        ({"README.md": "# My notes\n"}, "report.md"),
        ({"README.md": ""}, "report.md"),
        ({"README.md": b"\xff\x00"}, "report.md"),
        ({"README.md": f"{HEADING}\n\nfrom before there was a mark\n"}, "README.md"),
        ({"README.md": f"{HEADING} of mine\n"}, "report.md"),
        ({"README.md": None}, "report.md"),  # a folder
        ({"README.md": "# Mine\n", "report.md": f"{HEADING}\n"}, "report.md"),
        ({"README.md": "# Mine\n", "report.md": "# Mine too\n"}, None),
    ],
)
def test_a_report_replaces_no_file_of_the_users(there, expected, tmp_path):
    for name, content in there.items():
        if content is None:
            (tmp_path / name).mkdir()
        else:
            content = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(content)
    if expected is None:
        with pytest.raises(UserError, match=r"README\.md and report\.md in .* stay as they are"):
            run_files.report_path(tmp_path, HEADING)
    else:
        assert run_files.report_path(tmp_path, HEADING) == tmp_path / expected


@pytest.mark.hostile
@pytest.mark.parametrize("notes", [None, "# My notes\n"])
def test_files_beside_a_report_are_its_own_or_stay(notes, tmp_path):
    if notes:
        (tmp_path / "README.md").write_text(notes)
    names = ("results.csv", "accuracy.png")
    path = run_files.report_path(tmp_path, HEADING, names)
    (tmp_path / "accuracy.png").touch()
    with pytest.raises(UserError, match=r"accuracy\.png is there already, without a report"):
        run_files.report_path(tmp_path, HEADING, names)
    run_files.write_report(path, REPORT)
    assert run_files.report_path(tmp_path, HEADING, names) == path


@pytest.mark.hostile
def test_a_report_is_replaced_while_its_mark_stands(tmp_path):
    path = run_files.report_path(tmp_path, HEADING)
    run_files.write_report(path, REPORT)
    written = path.read_text()
    assert written.startswith(REPORT)
    assert run_files.report_path(tmp_path, "# Another heading") == path
    run_files.write_report(path, REPORT)
    assert path.read_text() == written
    path.write_text(REPORT.replace("# A", "# My"))  # somebody took it over
    assert run_files.report_path(tmp_path, HEADING) == tmp_path / "report.md"


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b"\xff\xfe\x00{}",
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000,
]


@pytest.mark.hostile
@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_json_is_one_message_or_nothing(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"summary\.json"):
        run_files.read_json(path)
    assert run_files.read_json_or_empty(path) == {}
    assert run_files.read_summary(tmp_path) is None


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("summary", "finished"),
    [
        ({"eval/top1": 0.5}, True),
        ({"eval/top1": None, "steps": 8}, True),  # a loss of NaN is null
        ({}, False),
        ({"eval/top1": "0.5"}, False),
        ({"eval/top1": [0.5], "steps": 8}, False),
        ({"eval/top1": 0.5, "steps": "8"}, False),
        ({"eval/top1": 0.5, "train_seconds": "8"}, False),
        ({"eval/top1": 0.5, "best_value": []}, False),
    ],
)
def test_the_rule_for_finished(tmp_path, summary, finished):
    assert run_files.read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert run_files.read_summary(tmp_path) == (summary if finished else None)


@pytest.mark.hostile
def test_rows_that_are_no_events_are_counted_once(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": 1, "epoch": 0.1}', b'{"step": 2, "epoch": 0.2}']
    bad = [b'{"step": 3, "ti', b"\x00\xff", b"[" * 100_000, b"7", b'{"step": "4"}', b'{"step": -1}']
    path.write_bytes(b"\n".join([good[0], *bad, good[1], b'{"step": true}', b'{"epoch": 1}']))
    assert [row["step"] for row in run_files.read_events(path)] == [1, 2]
    assert caplog.text.count("\n") == 1
    assert f"{path}:2 and 7 more lines are not complete events" in caplog.text


#: What becomes as many values as lines, or stays JSON, where lines are merely joined by commas.
BROKEN = [
    [b'{"step": 1', b'"epoch": 1}', b'{"step": 2}, {"step": 3}'],
    [b'{"step": 1, "a": [{}', b"{}]}", b'{"step": 2}, {"step": 3}'],
    [b'{"step": 1', b"}", b'{"step": 2}'],
    [b"[1", b"2]", b'{"step": 2}],[{"step": 3}'],
    [b'{"step": 1}', b"", b'{"step": 2}, {"step": 3}'],
    [b'{"step": 1}]', b'[{"step": 2}'],
    [b'{"step": 1, "a": "x', b'y"}'],
]


@pytest.mark.hostile
@pytest.mark.parametrize("lines", BROKEN)
def test_lines_are_read_together_as_strictly_as_one_by_one(lines, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([b'{"step": 0}', *lines, b'{"step": 9}']))
    one_by_one = [line.row for line in run_files.read_json_lines(path)]
    expected = [row for row in one_by_one if row is not None]
    assert list(run_files.read_events(path)) == expected
    assert [expected[0], expected[-1]] == [{"step": 0}, {"step": 9}]


@pytest.mark.hostile
def test_lines_of_any_parts_of_json_are_read_as_strictly_as_one_by_one():
    rng = random.Random(0)
    parts = [b"{", b"}", b"[", b"]", b",", b'"step":', b'"a":', b"1", b'{"step":2}', b"\n", b"\n"]
    for _ in range(2000):
        lines = b"".join(rng.choices(parts, k=rng.randrange(12))).splitlines(keepends=True)
        one_by_one = [run_files._parse_line(line) for line in lines]
        assert run_files._parse_block(lines) == one_by_one, lines
