"""The HTML report: one page that says what was made, what came out, and how sure that is.

The page stands alone: no script, no network, no file beside it, so that it can be mailed, archived
as an artefact and read years later. The answer comes first, made from the figures by stated rules
(:mod:`sage_core.evaluation.answer`); figures refer to the rows that they are computed from. Charts
of counts are plain HTML bars inside their tables; those with axes are inline SVG by Matplotlib. The
same data give the same bytes. All text of models and people is escaped: it is untrusted.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import cycle
from math import ceil
from typing import Any

import matplotlib
from jinja2 import Template
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sage_core.answers.tally import Tally
from sage_core.corpus.records import FunnelStep
from sage_core.evaluation.annotations import AnnotationFigures
from sage_core.evaluation.answer import Answer, answer
from sage_core.evaluation.answered import answer_table
from sage_core.evaluation.classifiers import ClassifierFigures
from sage_core.evaluation.judge_evidence import JudgeEvidence
from sage_core.evaluation.metrics import TOP_SHARES, Mean, ModelMetrics, Rate
from sage_core.evaluation.quality import MEASURES, Quality
from sage_core.evaluation.reasons import Reason, reasons
from sage_core.evaluation.rows import SHOWN, Rows, judged_name
from sage_core.evaluation.steering import DoseResponse, SteeringEvidence
from sage_core.evaluation.tournament import Design
from sage_core.evaluation.winrate import PairSummary, verdict
from sage_core.packaged import page_template
from sage_core.sac import parse
from sage_core.schema import ENDINGS, SearchNode, Trajectory
from sage_core.search.figures import SearchFigures
from sage_core.search.tree_display import steps
from sage_core.states import EMPTY, FIELDS, NAMED, SINGLE

_COLOURS = ("#8a94a6", "#d98c3f", "#3b7dd8", "#2a9d8f", "#8e5bb5", "#c4476a")
_INK, _FAINT = "#27303f", "#d9dee7"
_TINTS = ("transparent", "#fbf3f6", "#f4f8f4", "#f3f5fb", "#fbf8f0")  # of a state's fields
_LABEL_LENGTH = 28  # characters of a value that fit beside a chart
_LOSS_COLUMNS = 3  # at most
_WIDTH = 7.6  # inches; the page scales all charts to one width, so that their text is one size
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's own font
    "text.parse_math": False,  # a dollar sign in a model's word is no formula
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class CollapseReport:
    """What the collapse gates said of a model: figures by name, and those that did not pass."""

    figures: dict[str, float]
    collapsed: tuple[str, ...]


@dataclass(frozen=True)
class ReportData:
    """All that the page shows. Empty parts are left out, or shown as 'nothing to show'.

    Attributes:
        facts: the table on top: base model, seed, number of dialogues, ...
        notes: limits of this run that a reader must know before the numbers.
        annotation: what can be said of the annotated states.
        models: in the order of their making: m0, raw, m1, m2, ..., dpo.
        lineage: model -> one line on how it was made.
        losses: model -> (optimiser step, training loss), in order of step.
        position_bias: judge -> share of decided verdicts that named the model shown first.
        design: what the judged pairs can tell of all models.
        judges: how far the judges can be believed.
        answers: how many answers of annotator, selector and judges were read.
        grammar_probe: 'with grammar', 'without grammar' -> share of malformed replies.
        dialogues: per situation, model -> the dialogue it led.
        searches: figures of each round's search.
        search_tree: the tree of one search (the paper's Figure 4).
        quality: what is measured without a judge.
        collapse: model -> what the collapse gates said of it.
        steering: how far a model can be steered, if that was measured.
        rows: the tables behind the figures.
        benchmarks: all models' benchmarks (:class:`sage_core.steps.benchmarks.Benchmarks`).
        empathy: of each model what it makes of emotions (:class:`sage_core.steps.empathy.Empathy`).
        classified: what each text classifier of the user's says of the replies.
        config_yaml: the whole configuration, as YAML.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    funnel: Sequence[FunnelStep] = ()
    annotation: AnnotationFigures | None = None
    models: tuple[ModelMetrics, ...] = ()
    lineage: dict[str, str] = field(default_factory=dict)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    summaries: tuple[PairSummary, ...] = ()
    position_bias: dict[str, Rate] = field(default_factory=dict)
    design: Design | None = None
    judges: JudgeEvidence | None = None
    answers: Tally = field(default_factory=Tally)
    grammar_probe: dict[str, Rate] = field(default_factory=dict)
    dialogues: tuple[dict[str, Trajectory], ...] = ()
    searches: tuple[SearchFigures, ...] = ()
    search_tree: tuple[SearchNode, ...] = ()
    quality: Quality | None = None
    collapse: dict[str, CollapseReport] = field(default_factory=dict)
    steering: SteeringEvidence | None = None
    rows: tuple[Rows, ...] = ()
    benchmarks: dict[str, Any] | None = None
    empathy: tuple[dict[str, Any], ...] = ()
    classified: tuple[ClassifierFigures, ...] = ()
    config_yaml: str = ""


def render_report(data: ReportData) -> str:
    """The report as one HTML page, in UTF-8 when written."""
    return _render(page_template("report.html.jinja", FILTERS, SHARED), data)


def render_steering(data: ReportData) -> str:
    """A page of its own on ``data.steering``, with all replies under forced values."""
    return _render(page_template("steering_report.html.jinja", FILTERS, SHARED), data)


def _render(template: Template, data: ReportData) -> str:
    found = answer(data.summaries, data.quality)
    return template.render(
        data=data,
        answer=found,
        reasons=_reasons(data, found),
        answered=answer_table(data.answers),
        rows={each.name: each for each in data.rows},
        replies=[f"replies-{model.model}" for model in data.models],
        shown=SHOWN,
        judged_name=judged_name,
        figures=_figures(data),
        differences=sum(verdict(summary).endswith("better") for summary in data.summaries),
        top=TOP_SHARES,
        measures=MEASURES,
        endings=ENDINGS,
        search_steps=steps(data.search_tree),
    )


def _reasons(data: ReportData, found: Answer | None) -> list[Reason]:
    if found is None:
        return []
    collapsed = {model: each.collapsed for model, each in data.collapse.items()}
    return reasons(
        found.headline, data.summaries, data.position_bias, data.models, data.quality, collapsed,
        data.judges,
    )  # fmt: skip


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _shares() -> str:
    """The heading of the charts of values: 'Motivations and emotions'."""
    *names, last = (each.plural for each in SINGLE)
    return f"{', '.join(names)} and {last}".capitalize()


FILTERS: Mapping[str, Callable[..., object]] = {
    "chain": parse,
    "field": NAMED.__getitem__,
    "share": _share,
    "p": _p,
    "verdict": verdict,
}
SHARED: Mapping[str, object] = {
    "fields": FIELDS,
    "single": SINGLE,
    "empty": EMPTY,
    "tints": dict(zip(NAMED, cycle(_TINTS), strict=False)),
    "shares": _shares(),
}


def _figures(data: ReportData) -> dict[str, Markup]:
    """The SVG charts that there are data for, by name."""
    figures = {}
    if any(model.reply_words.n for model in data.models):
        figures["reply_words"] = _svg("reply_words", _draw_reply_words, data.models)
    for each in SINGLE:
        counts = [
            (model.model, counted, _colour(index))
            for index, model in enumerate(data.models)
            if (counted := model.counts(each))
        ]
        if counts:
            figures[each.plural] = _svg(each.plural, _draw_shares, counts)
    if data.steering is not None and data.steering.dose_responses:
        curves = data.steering.dose_responses
        figures["dose_response"] = _svg("dose_response", _draw_dose_response, curves)
    if any(data.losses.values()):
        figures["losses"] = _svg("losses", _draw_losses, data)
    return figures


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _svg(name: str, draw: Callable[..., Figure], *arguments: object) -> Markup:
    """Draw a chart and make its SVG fit to stand inside a page beside others.

    Matplotlib hashes the ids that it refers to with a salt: one per chart keeps them apart. The
    ids of groups are the same in every file and nothing refers to them, so they go, and so do the
    parts meant for a file of its own: declaration, metadata, name spaces, global style.
    """
    with matplotlib.rc_context({**_RC, "svg.hashsalt": f"sage-{name}"}):
        file = StringIO()
        draw(*arguments).savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style [^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    opening = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", svg[: svg.index(">")])
    # Safe: Matplotlib escapes the labels, which alone come from outside.
    return Markup(opening + svg[svg.index(">") :])  # noqa: S704


def _draw_reply_words(models: Sequence[ModelMetrics]) -> Figure:
    figure = Figure(figsize=(_WIDTH, 0.5 + 0.34 * len(models)))
    axes = figure.subplots()
    for row, model in enumerate(models):
        words: Mean = model.reply_words
        if words.value is None:
            continue
        axes.barh(row, words.value, color=_colour(row), height=0.66)
        end = words.value
        if words.ci_low is not None and words.ci_high is not None:
            axes.plot([words.ci_low, words.ci_high], [row, row], color=_INK, linewidth=1.1)
            end = words.ci_high
        axes.annotate(
            f"{words.value:.1f}", (end, row), (5, 0), textcoords="offset points", va="center"
        )
    _name_rows(axes, [model.model for model in models])
    axes.set_xlabel("words per reply, with 95% interval")
    axes.margins(x=0.08)
    return figure


def _draw_shares(counts: Sequence[tuple[str, dict[str, int], str]]) -> Figure:
    """Grouped bars of the values most frequent over all models (the paper's Figure 3)."""
    totals = [sum(counted.values()) for _, counted, _ in counts]
    mean_share: dict[str, float] = {}
    for (_, counted, _), total in zip(counts, totals, strict=True):
        for value, hits in counted.items():
            mean_share[value] = mean_share.get(value, 0.0) + hits / total
    values = sorted(mean_share, key=lambda value: (-mean_share[value], value))[:TOP_SHARES]

    height = 0.8 / len(counts)
    figure = Figure(figsize=(_WIDTH, 0.9 + len(values) * (0.16 + 0.11 * len(counts))))
    axes = figure.subplots()
    for index, ((model, counted, colour), total) in enumerate(zip(counts, totals, strict=True)):
        rates = [Rate.of(counted.get(value, 0), total) for value in values]
        rows = [row - 0.4 + height * (index + 0.5) for row in range(len(values))]
        widths = [100 * (rate.value or 0.0) for rate in rates]
        axes.barh(rows, widths, height * 0.88, color=colour, label=f"{model} (n = {total:,})")
        for row, rate in zip(rows, rates, strict=True):
            if rate.hits and rate.ci_low is not None and rate.ci_high is not None:
                ends = [100 * rate.ci_low, 100 * rate.ci_high]
                axes.plot(ends, [row, row], color=_INK, linewidth=0.8, alpha=0.65)
    _name_rows(axes, values)
    axes.set_xlabel("% of replies with a known value, with 95% interval")
    axes.legend(loc="lower right")
    return figure


def _draw_dose_response(curves: Sequence[DoseResponse]) -> Figure:
    """Shares with intervals over the boosts, which stand at even distances."""
    figure = Figure(figsize=(_WIDTH, 3.0))
    axes = figure.subplots()
    boosts = sorted({dose.boost for curve in curves for dose in curve.doses})
    for number, curve in enumerate(curves):
        colour = _colour(number + 2)
        aside = 0.08 * (number - (len(curves) - 1) / 2)  # so that intervals do not hide each other
        doses = [dose for dose in curve.doses if dose.share.value is not None]
        places = [boosts.index(dose.boost) + aside for dose in doses]
        shares = [100 * (dose.share.value or 0.0) for dose in doses]
        label = f"{curve.field}: {curve.keyword}"
        axes.plot(places, shares, color=colour, linewidth=1.5, marker="o", label=label)
        for place, dose in zip(places, doses, strict=True):
            ends = [100 * (dose.share.ci_low or 0.0), 100 * (dose.share.ci_high or 0.0)]
            axes.plot([place, place], ends, color=colour, linewidth=1.1)
    axes.set_xticks(range(len(boosts)), [f"{boost:g}" for boost in boosts])
    axes.set_ylim(-3, 103)
    axes.set_xlabel("boost, added to the logits of the keyword")
    axes.set_ylabel("% of replies, with 95% interval")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left")
    return figure


def _draw_losses(data: ReportData) -> Figure:
    """One panel per model, each with its own scale: DPO's loss is not SFT's."""
    curves = {model: points for model, points in data.losses.items() if points}
    colours = {model.model: _colour(index) for index, model in enumerate(data.models)}
    rows = ceil(len(curves) / _LOSS_COLUMNS)
    columns = ceil(len(curves) / rows)
    figure = Figure(figsize=(_WIDTH, 2.1 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (model, points) in zip(grid.flat, curves.items(), strict=False):
        steps, losses = zip(*points, strict=True)
        marker = "o" if len(points) == 1 else ""
        axes.plot(steps, losses, color=colours.get(model, _INK), linewidth=1.5, marker=marker)
        axes.set_title(model, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.locator_params(nbins=5)
    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of a horizontal bar chart, the first one on top."""
    labels = [" ".join(name.split()) for name in names]
    axes.set_yticks(
        range(len(labels)),
        [
            label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"
            for label in labels
        ],
    )
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
