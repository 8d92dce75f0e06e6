"""How results are printed: a table for people, one JSON value for programs. Nothing here decides anything."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from journal.errors import RivermillError

if TYPE_CHECKING:
    from rivermill.doctor import Finding

NEXT_STEPS = """
What next
  rivermill status                                     where everything stands
  rivermill features list {pipeline:<29}its views; `features get` reads a row
  rivermill journal tail {pipeline} --kind prediction   answers, with all that they were made from
  rivermill dataset verify {pipeline} {version}
  rivermill registry history {pipeline:<26}who was promoted, and why not
"""
LIVE_STEPS = """
Now: make up (or `rivermill up`), and in another terminal

  KEY=$(cat {home}/access/admin.key); API=http://127.0.0.1:{port}/v1/{pipeline}
  curl -H "Authorization: Bearer $KEY" $API/predict --json '{question}'
  curl -H "Authorization: Bearer $KEY" $API/labels --json '{outcome}'
  curl -H "Authorization: Bearer $KEY" $API/status
"""


def show_json(value: object) -> None:
    """Print one JSON value on a line of its own."""
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")


def show_mapping(value: Mapping[str, Any], as_json: bool) -> None:
    """Print names and values."""
    if as_json:
        show_json(value)
        return
    width = max((len(name) for name in value), default=0)
    for name, item in value.items():
        sys.stdout.write(f"{name:<{width}}  {_text(item)}\n")


def show_table(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows under their names."""
    if as_json:
        show_json(rows)
        return
    if not rows:
        sys.stdout.write("nothing here\n")
        return
    texts = [{name: _text(item) for name, item in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in texts)) for name in texts[0]}
    for row in ({name: name for name in widths}, *texts):
        sys.stdout.write("  ".join(f"{row[name]:<{width}}" for name, width in widths.items()).rstrip() + "\n")


def show_records(records: Iterable[Mapping[str, Any]], as_json: bool) -> None:
    """Print records: a JSON line each, or a short line each."""
    for record in records:
        if as_json:
            show_json(record)
        else:
            sys.stdout.write(
                f"{record['offset']:>9}  {record['at']:<32}  {record['kind']:<10}  {record['id']}\n"
                f"           {_shortened(orjson.dumps(record['body']).decode())}\n"
            )


def show_run(figures: Mapping[str, Any], as_json: bool, home: Path, port: int) -> None:
    """Print what a run came to, and what to try next."""
    if as_json:
        show_json(figures)
        return
    made, apart = figures["dataset"], ("dataset", "versions", "promotions", "rollback")
    plain = {name: value for name, value in figures.items() if name not in apart}
    show_mapping({**plain, **({f"dataset {name}": value for name, value in made.items()} if made else {})}, False)
    for name in ("versions", "promotions"):
        if figures[name]:
            sys.stdout.write(f"\n{name}\n")
            show_table([_indented(row) for row in figures[name]], False)
    if figures["rollback"]:
        sys.stdout.write("\nrollback\n")
        show_table([_indented(figures["rollback"])], False)
    if made:
        _show_next(figures, home, port)


def _show_next(figures: Mapping[str, Any], home: Path, port: int) -> None:
    pipeline, ask = figures["pipeline"], figures["example"]
    sys.stdout.write(NEXT_STEPS.format(pipeline=pipeline, version=figures["dataset"]["version"]))
    if ask:
        sys.stdout.write(LIVE_STEPS.format(pipeline=pipeline, home=home, port=port, **ask))


def _indented(row: Mapping[str, Any]) -> dict[str, Any]:
    (name, item), *others = row.items()
    return {f"  {name}": f"  {item}", **dict(others)}


def show_status(pipelines: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print where each pipeline stands."""
    if as_json:
        show_json(pipelines)
        return
    if not pipelines:
        sys.stdout.write("No pipeline has run in this home yet. Try: rivermill demo --weeks 1\n")
    for index, pipeline in enumerate(pipelines):
        sys.stdout.write("\n" * bool(index))
        show_mapping(pipeline, False)


def show_decision(decided: Mapping[str, Any], as_json: bool) -> None:
    """Print what was decided, or the plan of what would be."""
    if "explained" in decided and not as_json:
        sys.stdout.write(decided["explained"])
        return
    show_mapping({name: value for name, value in decided.items() if as_json or name != "details"}, as_json)


def show_line(line: Mapping[str, Any], as_json: bool) -> None:
    """Print a line's facts, then what the gate said and would say."""
    if as_json:
        show_json(line)
        return
    texts = {"report": "What the gate said", "now": "What it would say now"}
    show_mapping({name: value for name, value in line.items() if name not in texts}, False)
    for name, title in texts.items():
        if name in line:
            sys.stdout.write(f"\n## {title}\n\n{line[name]}")


def show_text(text: str, as_json: bool) -> None:
    """Print text as it is."""
    if as_json:
        show_json({"text": text})
    else:
        sys.stdout.write(text)


def brief(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Jobs without what came of them, for a table."""
    return [{name: value for name, value in job.items() if name != "result"} for job in jobs]


def show_findings(findings: Sequence["Finding"], as_json: bool) -> None:
    """Print what the doctor found."""
    if as_json:
        show_json([{"check": f.check, "ok": f.ok, "found": f.found, "fix": f.fix} for f in findings])
        return
    for finding in findings:
        sys.stdout.write(f"{'ok ' if finding.ok else 'BAD'}  {finding.check}: {finding.found}\n")
        if finding.fix and not finding.ok:
            sys.stdout.write(f"     {finding.fix}\n")


def show_error(error: RivermillError) -> None:
    """Print an error of ours on standard error."""
    sys.stderr.write(f"rivermill: {error}\n")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return "none" if value is None else str(value)


def _shortened(text: str, most: int = 150) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
