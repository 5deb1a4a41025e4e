"""From rollouts and preferences of people to what is known of judges: steps, report, commands."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from typer.testing import CliRunner

from flows.cli import app
from flows.judges import judges
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines.base import Request
from sage_core.evaluation.calibration import Calibration
from sage_core.evaluation.report import ReportData, render_report
from sage_core.evaluation.winrate import PairSummary, summarise
from sage_core.schema import Judgement, Trajectory, TrajectoryTurn
from sage_core.steps import configured
from sage_core.steps.base import Model, Step
from sage_core.steps.names import CALIBRATION, JUDGEMENTS, TRAJECTORIES, WIN_RATES
from sage_core.steps.reading import read_figures, read_judges
from sage_core.storage import ArtifactRef, read_json, read_rows, write_rows

SITUATIONS = 6
GPT = {"kind": "openai", "model": "gpt-4o"}


class Folders:
    """A context of plain folders, with one scripted engine."""

    def __init__(self, root: Path, engine: ScriptedEngine) -> None:
        self.root, self._engine = root, engine

    @property
    def work(self) -> Path:
        return self.root / "work"

    def folder(self, ref: ArtifactRef) -> Path:
        return self.root / ref.path

    def engine(self, *settings: object) -> ScriptedEngine:
        return self._engine

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def make(self, step: Step, name: str) -> ArtifactRef:
        ref = ArtifactRef(name, "0" * 64, 1)
        self.folder(ref).mkdir(parents=True)
        step.run(self.folder(ref), self)
        return ref

    def rollouts(self, model: str, reply: str) -> ArtifactRef:
        rows = [
            Trajectory(f"{model}/{n}", f"s{n}", "Hi", "sad",
                       (TrajectoryTurn("user", "Hi", ()), TrajectoryTurn("assistant", reply, ())))
            for n in range(SITUATIONS)
        ]  # fmt: skip
        ref = ArtifactRef(f"rollouts {model}", "0" * 64, 1)
        self.folder(ref).mkdir(parents=True)
        write_rows(self.folder(ref) / TRAJECTORIES, rows, Trajectory)
        return ref


def prefers_kind(request: Request, candidate: int = 0) -> str:
    """The judge likes the conversation that is kind; it says so, with odds for its letter."""
    text = request.messages[-1].content
    return f"Verdict: {'A' if text.index('kind') < text.index('Conversation B') else 'B'}"


def odds(request: Request, option: str) -> float:
    return -0.1 if prefers_kind(request).endswith(option) else -2.3


@pytest.fixture
def context(tmp_path: Path) -> Folders:
    return Folders(tmp_path, ScriptedEngine(prefers_kind, odds))


def config(human: Path) -> PipelineConfig:
    judges = [
        {"name": "own", "engine": GPT, "soft": True},
        {"name": "other", "engine": {**GPT, "model": "qwen-7b"}},
    ]
    return PipelineConfig.model_validate(
        {"evaluation": {"judges": judges, "human": human, "human_items": 0},
         "search": {"selector": {"engine": GPT}}}
    )  # fmt: skip


def preferences(path: Path) -> Path:
    """People prefer the kind reply, but once; one record has another label."""
    rows = [
        {"input": "Hi", "output_1": "so kind", "output_2": "rude", "label": label}
        for label in (1, 1, 1, 1, 1, 1, 1, 2, 7)
    ]
    path.write_text(json.dumps(rows))
    return path


def words(html: str) -> str:
    return " ".join(html.replace("\n", " ").split())


@pytest.mark.parametrize(
    ("most", "judged"), [(0, SITUATIONS), (2, 2), (SITUATIONS + 1, SITUATIONS)]
)
def test_the_first_situations_are_judged_in_both_orders(
    context: Folders, most: int, judged: int
) -> None:
    settings = PipelineConfig()
    (judge,) = judges(settings)
    m0 = Model("m0", ArtifactRef("base", "0" * 64, 1))
    rollouts = {"m0": context.rollouts("m0", "rude"), "m1": context.rollouts("m1", "so kind")}
    step = configured.judge_pair(settings, judge, ("m0", "m1"), rollouts, m0, most)
    made = context.make(step, "judged")
    rows = read_rows(context.folder(made) / JUDGEMENTS, Judgement)
    assert [(row.item_id, row.order) for row in rows] == [
        (f"s{number}", order) for number in range(judged) for order in ("ab", "ba")
    ]
    assert {row.verdict for row in rows} == {"model_b"}
    figures = context.make(configured.figures(settings, made, rollouts), "figures")
    assert read_json(context.folder(figures) / WIN_RATES)["design"]["situations"] == judged


def test_what_is_known_of_the_judges_of_a_run(context: Folders, tmp_path: Path) -> None:
    settings = config(preferences(tmp_path / "human.json"))
    human = settings.evaluation.human
    assert human is not None
    m0 = Model("m0", ArtifactRef("base", "0" * 64, 1))
    rollouts = {
        "m0": context.rollouts("m0", "rude"),
        "m1": context.rollouts("m1", "so kind"),
    }
    rows: list[Judgement] = []
    calibrations = []
    for judge in judges(settings):
        name = judge.settings.name
        step = configured.judge_pair(settings, judge, ("m0", "m1"), rollouts, m0)
        made = context.make(step, f"judged {name}")
        rows += read_rows(context.folder(made) / JUDGEMENTS, Judgement)
        calibrate = configured.calibrate_judge(settings, judge, human, "", m0)
        calibrations.append(context.make(calibrate, f"calibrated {name}"))
    own = [row for row in rows if row.judge == "own"]
    assert {row.verdict for row in own} == {"model_b"}
    assert {round(row.log_odds or 0, 6) for row in own} == {2.2}
    assert {row.log_odds for row in rows if row.judge == "other"} == {None}

    found = read_json(context.folder(calibrations[0]) / CALIBRATION)
    assert (found["records"], found["items"], sum(found["unused"].values())) == (9, 8, 1)
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (7, 8)

    judged = ArtifactRef("judgements", "0" * 64, 1)
    context.folder(judged).mkdir()
    write_rows(context.folder(judged) / JUDGEMENTS, rows, Judgement)
    figures = context.make(configured.figures(settings, judged, rollouts, calibrations), "figures")
    evidence = read_judges(context.folder(figures))
    assert evidence.families == {"own": "gpt", "other": "qwen"}
    assert [evidence.own_family(judge) for judge in evidence.judges] == [True, False]
    assert evidence.calibrated("other") is not None
    assert [each.judge for each in evidence.soft] == ["own"]
    assert [each.judge for each in evidence.styled] == ["own", "other"]
    (gap,) = evidence.gaps
    assert gap.gap.value == 0

    win_rates, _ = read_figures(context.folder(figures))
    summaries = tuple(PairSummary(**{**pair, "lacking": ()}) for pair in win_rates["pairs"])
    page = words(render_report(ReportData("x", summaries=summaries, judges=evidence)))
    assert "Can the judges be believed?" in page
    assert "gpt: the selector" in page
    assert "agrees with people more often than chance" in page
    assert "1 records were not used: label 7, not 1 or 2" in page
    assert "None" not in page


def test_a_report_names_missing_orders(context: Folders) -> None:
    rows = [Judgement("x <1>", "j", "m0", "m1", "ab", "tie", "")]
    from sage_core.evaluation.judge_evidence import judge_evidence

    evidence = judge_evidence(rows, summarise(rows), {})
    data = ReportData("x", summaries=tuple(summarise(rows)), judges=evidence)
    assert "1 items lack an order (x &lt;1&gt; lacks ba)" in words(render_report(data))


def stats(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["judge", "stats", *arguments], env={"COLUMNS": "200"})


def table(path: Path, rows: list[Judgement]) -> str:
    path.write_text("\n".join(json.dumps(asdict(row)) for row in rows))
    return str(path)


def both(item: str, verdict: str, judge: str = "j") -> list[Judgement]:
    return [Judgement(item, judge, "m0", "m1", order, verdict, "") for order in ("ab", "ba")]  # type: ignore[arg-type]


def test_statistics_of_a_file(tmp_path: Path, context: Folders) -> None:
    """Nine wins of nine have p = 2 / 2^9 = 0.0039, which is no 0.00."""
    rows = [row for n in range(9) for row in both(f"s{n}", "model_b")]
    rows += [row for n in range(9) for row in both(f"s{n}", "model_a" if n else "tie", "k")]
    rows.append(Judgement("z", "j", "m0", "m1", "ba", "tie", ""))
    file = table(tmp_path / "rows.jsonl", rows)
    refs = {name: context.rollouts(name, "x" * n) for n, name in enumerate(("m0", "m1"), start=3)}
    options = [f"--rollouts={n}={context.folder(ref) / TRAJECTORIES}" for n, ref in refs.items()]
    result = stats(file, *options)
    assert result.exit_code == 0, result.output
    for text in (
        "0.004", "j, m0 - m1: 1 items lack an order: z lacks ab", "Cohen's kappa",
        "Krippendorff's alpha", "Bradley-Terry scores at equal style", "Win rates at equal length",
    ):  # fmt: skip
        assert text in result.output
    (first, _) = json.loads(stats(file, "--json").output)
    assert (first["n"], first["missing"], first["lacking"]) == (9, 1, ["z lacks ab"])


@pytest.mark.parametrize(
    "rows",
    [both("x", "tie"), both("x", "model_a"), both("x", "unparsed"),
     [row for n in range(3) for row in both(str(n), "tie")]],
)  # fmt: skip
def test_statistics_of_hardly_anything(tmp_path: Path, rows: list[Judgement]) -> None:
    """One item, nothing read, all ties."""
    result = stats(table(tmp_path / "rows.jsonl", rows))
    assert result.exit_code == 0, result.output
    assert "nan" not in result.output


def test_statistics_of_nothing_and_of_bad_files(tmp_path: Path) -> None:
    assert "has no judgements" in stats(table(tmp_path / "none.jsonl", [])).output
    rows = both("x", "tie")
    assert stats(table(tmp_path / "twice.jsonl", [*rows, *rows])).exit_code != 0
    assert stats(table(tmp_path / "a.jsonl", rows), "--rollouts=m0").exit_code != 0


def test_a_calibration_in_words() -> None:
    from sage_core.evaluation.agreement import Agreement
    from sage_core.evaluation.metrics import Rate

    def told(hits: int, n: int) -> str:
        none = Rate.of(0, 0)
        return Calibration(
            "j", "LLMBar", n, {}, n, 0, none, Rate.of(hits, n), Agreement(0, None, None, None),
            none, {}, none,
        ).in_words  # fmt: skip

    assert told(90, 100).startswith("agrees with people more often")
    assert told(10, 100).startswith("agrees with people less often")
    assert told(5, 10).startswith("not shown to agree")
    assert told(0, 0).startswith("not known")
