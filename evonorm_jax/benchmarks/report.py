"""Results as three files of the same content: JSON for programs, Markdown and bars for people."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.benchmarks.chart import as_png
from evonorm_jax.benchmarks.results import Report, Result, number, time_unit
from evonorm_jax.benchmarks.timing import geometric_mean, spread
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import replacing

#: Of the JSON files; raised when a field changes its meaning.
SCHEMA = 1

#: Headings.
TIME = "time, median [quartiles]"
MEAN = "geometric mean"


def write_report(
    report: Report,
    environment: Mapping[str, Any],
    folder: Path,
    stem: str,
    *,
    chart: bool = True,
) -> list[Path]:
    """Writes `<folder>/<stem>.json`, `.md` and `.png`, each of them whole or not at all.

    Args:
      report: What was measured.
      environment: What it was measured on and with.
      folder: Folder to write to; it is created where it does not exist.
      stem: Name of the files without their ending.
      chart: Whether to draw the `.png`. A report without a single sample never has one.

    Returns:
      The files that were written.

    Raises:
      UserError: The files cannot be written.
    """
    chart = chart and any(report.samples(result) for result in report.results)
    picture = f"{stem}.png"
    contents = {
        folder / f"{stem}.json": _readable(as_json(report, environment)).encode(),
        folder / f"{stem}.md": as_markdown(
            report, environment, picture=picture if chart else None
        ).encode(),
    }
    if chart:
        contents[folder / picture] = as_png(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            with replacing(path) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"The results cannot be written to {folder} ({error.strerror or error}). Choose "
            "another folder with --output."
        ) from error
    return list(contents)


def read_results(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Returns the environment and the results of a report's JSON file.

    Raises:
      OSError: The file cannot be read.
      ValueError: The file is no report in JSON, or one of another schema.
    """
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no report of schema {SCHEMA}.")
    names = [field.name for field in dataclasses.fields(Result)]
    fields = ({name: result[name] for name in names} for result in data["results"])
    results = [Result(**found | {"seconds": tuple(found["seconds"])}) for found in fields]
    return data["environment"], results


def as_json(report: Report, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole report as a dictionary for JSON, with the samples of every round."""
    ratios = []
    for group in report.groups():
        for case in report.cases(group):
            for contender, rival in report.comparisons:
                if (ratio := report.ratio(group, case, contender, rival)) is not None:
                    names = {"group": group, "case": case, "contender": contender, "rival": rival}
                    ratios.append(names | ratio._asdict())
    results = [
        dataclasses.asdict(result)
        | {"spread": spread(result.seconds)._asdict() if result.seconds else None}
        for result in report.results
    ]
    return {
        "schema": SCHEMA,
        "suite": report.suite,
        "title": report.title,
        "environment": dict(environment),
        "results": results,
        "ratios": ratios,
    }


def _readable(value: Any) -> str:
    """Returns JSON with indentation, but with the samples of a contender on one line."""
    text = json.dumps(value, indent=2)
    return re.sub(r"\[[\s\d.,e+-]+\]", lambda m: " ".join(m[0].split()), text) + "\n"


def as_markdown(report: Report, environment: Mapping[str, Any], *, picture: str | None) -> str:
    """Returns the report as Markdown.

    Each group has tables of the times, of the further figures and of the same-round ratios.
    """
    lines = [f"# {report.title}", ""]
    if environment["quick"]:
        lines += [f"**{report.quick_notice}**", ""]
    lines += [*_environment_lines(environment), ""]
    if picture is not None:
        lines += [f"![{report.title}]({picture})", ""]
    lines += [*(f"- {note}" for note in report.notes), ""]
    for group in report.groups():
        lines += [f"## {group}", "", *_time_tables(report, group), *_ratio_table(report, group)]
    return "\n".join(lines)


def _environment_lines(environment: Mapping[str, Any]) -> list[str]:
    set_variables = [f"{k}={v}" for k, v in environment["variables"].items() if v is not None]
    entries = {
        "hardware": f"{environment['devices']}; {environment['processor']}, "
        f"{environment['cores']} cores",
        "command": "`" + " ".join(environment["command"]) + "`",
        "commit": environment["commit"] or "unknown",
        "date": environment["date"],
        "versions": ", ".join(f"{k} {v}" for k, v in environment["versions"].items()),
        "variables": " ".join(set_variables) or "none set",
        "load average": f"{environment['load_average_before']} before, "
        f"{environment['load_average_after']} after",
    }
    return [f"- {name}: {value}" for name, value in entries.items()]


def _time_tables(report: Report, group: str) -> list[str]:
    """Returns the lines of the tables of times and figures.

    A group with a single case has one table, with a column for each measure. Any other group has a
    table for each measure, with a column for each case.
    """
    cases, contenders = report.cases(group), report.contenders(group)
    headline = report.headline or TIME
    measures = tuple(dict.fromkeys((headline, *report.figures(group))))
    if len(cases) == 1:
        return _table(
            contenders,
            measures,
            lambda row, measure: _measured(report.find(group, cases[0], row), measure, headline),
        )
    lines = []
    for measure in measures:

        def cell(row: str, case: str, measure: str = measure) -> str:
            return _measured(report.find(group, case, row), measure, headline)

        having = [row for row in contenders if any(cell(row, case) for case in cases)]
        lines += [f"{measure[0].upper()}{measure[1:]}:", "", *_table(having, cases, cell)]
    return lines


def _ratio_table(report: Report, group: str) -> list[str]:
    cases, timed = report.cases(group), report.headline is None
    rows = {}
    for contender, rival in report.comparisons:
        ratios = {case: report.ratio(group, case, contender, rival) for case in cases}
        known = {case: ratio for case, ratio in ratios.items() if ratio is not None}
        if known:
            rows[f"{contender} / {rival}"] = known
    if not rows:
        return []

    def cell(row: str, column: str) -> str:
        ratios = rows[row]
        if column in ratios:
            median, low, high = ratios[column]
            return f"{median:.2f} [{low:.2f}, {high:.2f}]" if timed else f"{median:.3f}"
        if column != MEAN or len(ratios) < len(cases):
            return ""  # a mean over fewer cases is another number than its neighbours
        mean = geometric_mean([ratio.median for ratio in ratios.values()])
        return f"{mean:.2f}" if timed else f"{mean:.3f}"

    return [
        "Ratio of times within a round, median [quartiles]; below 1: the first is faster:"
        if timed
        else f"Ratio of {report.headline}; below 1: the first has less:",
        "",
        *_table(list(rows), [*cases, MEAN] if len(cases) > 1 else cases, cell),
    ]


def _table(
    rows: Sequence[str], columns: Sequence[str], cell: Callable[[str, str], str]
) -> list[str]:
    """Returns the lines of a Markdown table, with an empty line at the end."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row} | " + " | ".join(cell(row, column) for column in columns) + " |")
    return [*lines, ""]


def _measured(result: Result | None, measure: str, headline: str) -> str:
    """Returns the text of one measure, or for a headline without a value the result's note."""
    if result is None:
        return ""
    if measure in result.figures:
        return number(result.figures[measure])
    if measure != TIME:
        return result.note if measure == headline else ""
    if not result.seconds:
        return result.note
    time = spread(result.seconds)
    factor, unit = time_unit([time.median])
    median, low, high = (number(factor * seconds) for seconds in time)
    return f"{median} {unit} [{low}, {high}]"
