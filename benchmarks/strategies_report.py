"""Figures, a table and a plot of several strategies' answers to the same questions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.plain_flights import auc, log_loss
from journal.clock import DAY
from journal.errors import Refused

Scores = NDArray[np.float64]
Times = NDArray[np.int64]
Outcomes = NDArray[np.bool_]

BEGIN, END = "<!-- made by benchmarks.strategies: begin -->", "<!-- made by benchmarks.strategies: end -->"
# Below this a week's AUC is weather, not a strategy.
FEWEST_PER_WEEK = 500
_NAMES = {
    "frozen": "Frozen: trained once, on what was known at day 60",
    "online": "Online only: learns from every outcome",
    "weekly": "Weekly retrain, always promoted",
    "served": "**What Rivermill served**",
    "plain": "Weekly retrain as a plain script",
}


class Figures(NamedTuple):
    """A strategy's exact ROC AUC and log loss (nats), over so many flights."""

    flights: int
    auc: float
    log_loss: float


class Week(NamedTuple):
    """ROC AUC by strategy over the questions of one week; ``start`` in microseconds."""

    start: int
    auc: dict[str, float]


def in_common(answers: Mapping[str, Scores]) -> NDArray[np.bool_]:
    """Where every strategy gave an answer; shape (n,). One that has none is NaN."""
    return np.asarray(~np.isnan(np.stack(list(answers.values()))).any(axis=0), np.bool_)


def figures_of(answers: Mapping[str, Scores], outcomes: Outcomes) -> dict[str, Figures]:
    """Each strategy's figures over the flights that all of them answered.

    Args:
        answers: Scores by strategy; shape (n,) each, NaN where there is none.
        outcomes: Shape (n,).

    Raises:
        Refused: There is no such flight, or only one class of them.
    """
    common = in_common(answers)
    chosen = outcomes[common]
    if not chosen.any() or chosen.all():
        raise Refused(
            which=f"{len(chosen)} flights that every strategy answered, of one class only",
            fix="Play more weeks: the first that counts is asked on day 60",
        )
    return {
        name: Figures(len(chosen), auc(scores[common], chosen), log_loss(scores[common], chosen))
        for name, scores in answers.items()
    }


def weeks_of(at: Times, answers: Mapping[str, Scores], outcomes: Outcomes, start: int) -> list[Week]:
    """ROC AUC week by week from ``start`` on; weeks with too few flights, or of one class, are left out.

    Args:
        at: When each question was asked, in microseconds; shape (n,).
        answers: Scores by strategy; shape (n,) each.
        outcomes: Shape (n,).
        start: Where the first week begins, in microseconds.
    """
    common, number = in_common(answers), (at - start) // (7 * DAY)
    found = []
    for week in np.unique(number[common & (at >= start)]).tolist():
        rows = common & (number == week)
        chosen = outcomes[rows]
        if len(chosen) >= FEWEST_PER_WEEK and 0 < chosen.sum() < len(chosen):
            areas = {name: auc(scores[rows], chosen) for name, scores in answers.items()}
            found.append(Week(start + week * 7 * DAY, areas))
    return found


def table_of(figures: Mapping[str, Figures]) -> str:
    """The figures as a Markdown table, one strategy a row."""
    rows = [f"| {_NAMES[name]} | {each.auc:.4f} | {each.log_loss:.4f} |" for name, each in figures.items()]
    flights = next(iter(figures.values())).flights
    return "\n".join([f"| from day 60 on, {flights:,} flights | ROC AUC | log loss |", "|---|---|---|", *rows])


def with_table(page: str, table: str) -> str:
    """A page with the table between its two marks.

    Raises:
        Refused: The page lacks the marks.
    """
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise Refused(which="the page has no place for the table", fix=f"Put {BEGIN!r} and {END!r} where it belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def plot(weeks: Sequence[Week], path: Path) -> None:
    """Draw weekly ROC AUC by strategy as SVG: equal figures give equal bytes."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a plot should pay
    from matplotlib.figure import Figure  # noqa: PLC0415

    looks = {
        "frozen": ("#999999", 1.2),
        "online": ("#1f77b4", 1.2),
        "weekly": ("#2ca02c", 1.2),
        "served": ("#d62728", 2.0),
    }
    with mpl.rc_context({"svg.hashsalt": "rivermill", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.add_subplot()
        starts = np.array([week.start for week in weeks], dtype="datetime64[us]")
        for name, (color, width) in looks.items():
            areas = [week.auc[name] for week in weeks]
            axes.plot(starts, areas, color=color, linewidth=width, label=_NAMES[name].strip("*"))
        axes.set_ylabel("ROC AUC of the week's questions")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
