"""The report's plots: matplotlib figures as inline SVG. A plot without data says so.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish. Lines have labels or a legend, and
each figure has a title and a description for screen readers.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from toolorchestra.evaluation.baselines import BEST_EXPERT, INITIAL_POLICY, ORACLE, POLICY
from toolorchestra.evaluation.series import Series, call_shares, metric_series, pareto_front
from toolorchestra.rollout.baselines import ALWAYS
from toolorchestra.trainer.batch import HEALTHY_K3, MOST_K3

Rows = Sequence[Mapping[str, Any]]

BLUE, ORANGE, GREEN, PINK, SKY, RUST, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#6b7280"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RUST, "#8a7a00", GREY)
_INK, _GRID = "#1f2937", "#e5e7eb"
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def figure_svg(figure: Figure, *, title: str, description: str) -> str:
    """Return the figure as an inline SVG element with a title and a description; its ids are unique per title."""
    buffer = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)  # matplotlib leaves its backends untyped
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = html.escape(f"{title}. {description}", quote=True)
    # matplotlib sets a fixed size in points; without it, the drawing follows the width of its column.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [ax for line in axes for ax in line]


def _absent(ax: Axes, what: str) -> None:
    ax.text(0.5, 0.5, f"this run has no {what}", ha="center", va="center", transform=ax.transAxes, color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)


def dollars(value: float, _: object = None) -> str:
    """Format dollars with three significant digits and without an exponent: $0.000976."""
    if value == 0:
        return "$0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{abs(value):.{digits}f}"
    return f"{'−' if value < 0 else ''}${text.rstrip('0').rstrip('.') if '.' in text else text}"


def _band(ax: Axes, series: Series, *, colour: str, label: str | None = None, floor: float | None = None) -> None:
    low = series.low if floor is None else [max(floor, v) for v in series.low]
    ax.plot(series.steps, series.raw, color=colour, alpha=0.25, linewidth=0.7)
    ax.fill_between(series.steps, low, series.high, color=colour, alpha=0.16, linewidth=0)
    ax.plot(series.steps, series.mean, color=colour, linewidth=1.8, label=label)


def _step_axis(ax: Axes) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _metric(ax: Axes, rows: Rows, key: str, *, title: str, colour: str, percent: bool = False) -> None:
    ax.set_title(title)
    series = metric_series(rows, key)
    if series is None:
        _absent(ax, "record of it")
        return
    _band(ax, series, colour=colour, floor=0 if min(series.raw) >= 0 else None)
    _step_axis(ax)
    if percent:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    if "usd" in key:
        ax.yaxis.set_major_formatter(FuncFormatter(dollars))


def learning_curves(rows: Rows) -> str:
    """Plot reward (or the share of valid turns, where reward is 0 by construction), accuracy, cost and entropy."""
    with mpl.rc_context(_STYLE):
        figure, (reward, accuracy, cost, entropy) = _figure(9, 5.2, columns=2, rows=2)
        if any("reward_mean" in row for row in rows):
            _metric(reward, rows, "reward_mean", title="Reward in training", colour=BLUE)
        else:
            _metric(reward, rows, "valid_fraction", title="Turns in the asked format", colour=BLUE, percent=True)
        _metric(accuracy, rows, "accuracy", title="Accuracy in training", colour=GREEN, percent=True)
        _metric(cost, rows, "nominal_usd_per_task", title="Nominal cost per task", colour=RUST)
        _metric(entropy, rows, "entropy", title="Entropy of the policy", colour=PINK)
    return figure_svg(figure, title="Learning curves", description="Reward, accuracy, cost and entropy by step")


def held_out_progress(progress: Rows, evaluations: Rows) -> str:
    """Plot the policy's held-out accuracy (95% band) and cost during training, with the best single expert's."""
    suite = progress[0]["suite"]
    rows = [r for r in progress if r["suite"] == suite]
    best = next((r for r in evaluations if r["suite"] == suite and r["system"] == BEST_EXPERT), None)
    steps = [r["step"] for r in rows]
    with mpl.rc_context(_STYLE):
        figure, (accuracy, cost) = _figure(9, 2.8, columns=2)
        accuracy.set_title(f"Accuracy on {suite} (held out)")
        low, high = zip(*(r["accuracyInterval"] for r in rows), strict=True)
        accuracy.fill_between(steps, low, high, color=GREEN, alpha=0.16, linewidth=0)
        accuracy.plot(steps, [r["accuracy"] for r in rows], color=GREEN, marker="o", markersize=4, label="policy")
        accuracy.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
        cost.set_title(f"Nominal cost per task on {suite}")
        cost.plot(steps, [r["nominalUSDPerTask"] for r in rows], color=RUST, marker="o", markersize=4, label="policy")
        cost.yaxis.set_major_formatter(FuncFormatter(dollars))
        for ax, key in ((accuracy, "accuracy"), (cost, "nominalUSDPerTask")):
            if best is not None:
                ax.axhline(best[key], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="bestExpert")
            _step_axis(ax)
        cost.set_ylim(bottom=0)
        for ax in (accuracy, cost):
            ax.legend(loc="best")
    return figure_svg(figure, title="Held-out progress", description="Accuracy and cost of the policy by step")


def optimiser_curves(rows: Rows) -> str:
    """Plot loss, gradient norm, KL and the share of valid outputs over steps."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(9, 2.4, columns=4)
        for ax, (key, title) in zip(
            axes,
            (("loss", "Loss"), ("grad_norm", "Gradient norm"), ("kl", "KL"), ("valid_fraction", "Valid outputs")),
            strict=True,
        ):
            _metric(ax, rows, key, title=title, colour=GREY, percent=key == "valid_fraction")
    return figure_svg(figure, title="Optimiser", description="Loss, gradient norm, KL and valid outputs by step")


def mismatch_curves(rows: Rows) -> str:
    """Plot the mismatch of trainer and engine: k3 with its usual range, and the RMS of the log-ratio, over steps."""
    with mpl.rc_context(_STYLE):
        figure, (k3, rms) = _figure(9, 2.6, columns=2)
        _log_metric(k3, rows, "mismatch_k3", title="k3, nats per token")
        if metric_series(rows, "mismatch_k3") is not None:
            k3.axhspan(*HEALTHY_K3, color=GREEN, alpha=0.16, linewidth=0, label="usual in bfloat16")
            k3.axhline(MOST_K3, color=RUST, linewidth=1, linestyle=(0, (4, 3)), label="too much")
            k3.legend(loc="best")
        _log_metric(rms, rows, "mismatch_rms", title="RMS of the log-ratio, nats")
    return figure_svg(
        figure, title="Trainer against engine", description="k3 and root mean square of the log-ratio by step"
    )


def _log_metric(ax: Axes, rows: Rows, key: str, *, title: str) -> None:
    ax.set_title(title)
    series = metric_series(rows, key)
    if series is None:
        _absent(ax, "record of it")
        return
    ax.plot(series.steps, series.raw, color=BLUE, linewidth=1.2, marker=".", markersize=3)
    ax.set_yscale("log", nonpositive="mask")
    _step_axis(ax)


_MARKS = {
    POLICY: (BLUE, "*", 190),
    INITIAL_POLICY: (SKY, "*", 120),
    BEST_EXPERT: (RUST, "D", 60),
    ORACLE: (GREEN, "^", 60),
}


def accuracy_against_cost(rows: Rows, *, suite: str) -> str:
    """Plot accuracy, with intervals, against nominal dollars per task (log scale), with labels and the Pareto front."""
    shown = [r for r in rows if r["suite"] == suite and r["nominalUSDPerTask"] > 0]
    with mpl.rc_context(_STYLE):
        figure, (ax,) = _figure(9, 4.6)
        if not shown:
            _absent(ax, "evaluation")
        else:
            _scatter(ax, shown)
    return figure_svg(
        figure, title=f"Accuracy against cost, {suite}", description="Systems with 95 % intervals and front"
    )


def _scatter(ax: Axes, rows: Rows) -> None:
    by_system = {r["system"]: r for r in rows}
    # bestExpert is one of the always: systems: at one point, one name would cover the other.
    points = {s: (r["nominalUSDPerTask"], r["accuracy"]) for s, r in by_system.items()}
    front = pareto_front({s: p for s, p in points.items() if s != ORACLE})
    costs, accuracies = zip(*(points[s] for s in front), strict=True)
    label = "Pareto front (without the oracle)"
    ax.step(costs, accuracies, where="post", color=GREY, linewidth=1, linestyle=(0, (4, 3)), label=label)
    named = _labels(points)
    for system, (cost, accuracy) in points.items():
        colour, marker, size = _MARKS.get(system, (GREY, "o", 34))
        low, high = by_system[system]["accuracyInterval"]
        ax.errorbar(cost, accuracy, yerr=[[accuracy - low], [high - accuracy]], color=colour, alpha=0.55, linewidth=1.1)
        ax.scatter(cost, accuracy, s=size, color=colour, marker=marker, zorder=3)
    for system, (text, offset) in named.items():
        cost, accuracy = points[system]
        weight = "bold" if system == POLICY else "normal"
        ax.annotate(
            text, (cost, accuracy), xytext=offset, textcoords="offset points", fontsize=8.5, fontweight=weight,
            va="center", color=_MARKS.get(system, ("#4b5563",))[0],
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(dollars))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    ax.set_xlabel("nominal US dollars per task (log scale): left is cheaper")
    ax.set_ylabel("accuracy")
    ax.margins(x=0.2)
    ax.legend(loc="lower right")


def _labels(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[str, tuple[int, int]]]:
    """Return each label's text and offset in points: systems at one point share a label, close labels move apart."""
    places: dict[tuple[float, float], list[str]] = {}
    for system, (cost, accuracy) in points.items():
        places.setdefault((float(f"{cost:.3g}"), round(accuracy, 3)), []).append(system)
    labels: dict[str, tuple[str, tuple[int, int]]] = {}
    taken: list[tuple[float, float]] = []
    for (cost, accuracy), systems in sorted(places.items(), key=lambda item: -item[0][1]):
        crowd = sum(1 / 1.6 < cost / c < 1.6 and abs(accuracy - a) < 0.035 for c, a in taken)
        taken.append((cost, accuracy))
        names = [s for s in systems if not s.startswith(ALWAYS)] + [s for s in systems if s.startswith(ALWAYS)]
        labels[systems[0]] = (" = ".join(names), (9, 7 - 13 * crowd))
    return labels


def calls_over_time(rows: Rows) -> str:
    """Plot the share of each tool among all calls, by step."""
    steps, shares = call_shares(rows)
    with mpl.rc_context(_STYLE):
        figure, (ax,) = _figure(9, 3)
        if not shares:
            _absent(ax, "calls")
        else:
            ax.stackplot(steps, list(shares.values()), labels=list(shares), colors=_colours(len(shares)), alpha=0.85)
            ax.set_ylim(0, 1)
            ax.margins(x=0)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
            ax.set_ylabel("share of calls")
            _step_axis(ax)
            handles, labels = ax.get_legend_handles_labels()
            ax.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    return figure_svg(figure, title="Calls per tool", description="Share of each tool among all calls by step")


def _colours(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def latency_and_staleness(rows: Rows) -> str:
    """Plot service seconds per task, and mean and largest staleness."""
    with mpl.rc_context(_STYLE):
        figure, (latency, staleness) = _figure(9, 2.8, columns=2)
        _metric(latency, rows, "service_seconds_per_task", title="Service seconds per task", colour=ORANGE)
        staleness.set_title("Staleness (steps)")
        mean, largest = metric_series(rows, "staleness_mean"), metric_series(rows, "staleness_max")
        if mean is None and largest is None:
            _absent(staleness, "staleness")
        else:
            for series, colour, label in ((largest, GREY, "largest"), (mean, BLUE, "mean")):
                if series is not None:
                    staleness.plot(series.steps, series.raw, color=colour, linewidth=1.3, label=label)
            staleness.set_ylim(bottom=0, top=1.3 * max(staleness.get_ylim()[1], 1))
            staleness.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            staleness.legend(loc="upper right", ncols=2)
            _step_axis(staleness)
    return figure_svg(figure, title="Latency and staleness", description="Seconds per task and age of tokens by step")


def utilisation(rows: Rows) -> str:
    """Plot the share of each step in which the trainer waited for episodes."""
    with mpl.rc_context(_STYLE):
        figure, (ax,) = _figure(9, 2.6)
        _metric(ax, rows, "trainer_idle_fraction", title="Trainer idle", colour=RUST, percent=True)
        if metric_series(rows, "trainer_idle_fraction") is not None:
            ax.set_ylim(0, 1)
    return figure_svg(figure, title="Utilisation", description="Share of each step that the trainer was idle")


def bars(values: Mapping[str, float], *, title: str, unit: str, what: str, width: float = 4.4) -> str:
    """Plot horizontal bars, the largest on top, with values and shares. `unit`: `s`, `$` or empty (a count)."""
    named = {name.replace("_", " "): value for name, value in values.items()}
    shown = sorted(((n, v) for n, v in named.items() if v > 0), key=lambda item: item[1])
    with mpl.rc_context(_STYLE):
        figure, (ax,) = _figure(width, 0.55 + 0.27 * max(3, len(shown)))
        ax.set_title(title)
        if not shown:
            _absent(ax, what)
        else:
            total = sum(v for _, v in shown)
            ax.barh([n for n, _ in shown], [v for _, v in shown], color=BLUE, alpha=0.85, height=0.66)
            for i, (_, value) in enumerate(shown):
                ax.annotate(f" {_amount(value, unit)} · {value / total:.0%}", (value, i), va="center", fontsize=8.5)
            ax.set_xlim(0, shown[-1][1] * 1.5)
            ax.set_ylim(min(len(shown), 3) - 3.6, len(shown) - 0.4)
            ax.set_xticks([])
            ax.grid(visible=False)
            ax.spines["bottom"].set_visible(False)
            ax.tick_params(axis="y", length=0)
    return figure_svg(figure, title=title, description=", ".join(f"{n}: {_amount(v, unit)}" for n, v in shown[::-1]))


def _amount(value: float, unit: str) -> str:
    if unit == "$":
        return dollars(value)
    if unit == "s":
        return f"{value / 60:.1f} min" if value >= 120 else f"{value:.1f} s"
    return f"{value:,.0f}"
