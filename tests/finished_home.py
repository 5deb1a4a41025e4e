"""A SAGE home with one finished run, written here: what `sage compare` reads of it."""

from dataclasses import asdict
from pathlib import Path

from sage_core.config.loading import load_config
from sage_core.evaluation.quality import Measurements, compare
from sage_core.evaluation.winrate import summarise
from sage_core.schema import Judgement, Trajectory, TrajectoryTurn
from sage_core.steps.names import (
    MEASUREMENTS,
    METRICS,
    QUALITY,
    REPORT,
    RUN,
    TRAJECTORIES,
    WIN_RATES,
)
from sage_core.storage import ArtifactRef, ArtifactStore, write_json, write_rows

JUDGE = '{name: long, engine: {kind: "finished_home:LongerWins"}}'
SETTINGS = [f"evaluation.judges=[{JUDGE}]", "evaluation.bootstrap_samples=200"]


class LongerWins:
    """A judge of the user's own: the conversation that says "well" more often is better."""

    name = "long"

    def __init__(self, *arguments: object) -> None:
        from sage_core.engines.base import Capabilities, Usage

        self.capabilities, self.usage = Capabilities(), Usage()

    def generate(self, requests):  # type: ignore[no-untyped-def]
        from sage_core.engines.base import Completion

        answers = []
        for request in requests:
            a, b = request.messages[-1].content.split("Conversation B:")
            verdict = "A" if a.count("well") > b.count("well") else "B"
            answers.append([Completion(f"Verdict: {verdict}", "stop", 1)])
        return answers


def finished_run(home: Path, words: int, *, seed: int = 0, situations: int = 6) -> Path:
    """A home whose one run trained m1 and m2; m2's replies have ``words`` words and m1's ten, and
    its judge prefers m2 on every item. Returns the folder of its report."""
    store = ArtifactStore(home / "artifacts")
    config = load_config("demo", [*SETTINGS, f"seed={seed}"])
    names = [f"s{number}" for number in range(situations)]

    def build(name: str, label: str, write, *parents: ArtifactRef) -> ArtifactRef:  # type: ignore[no-untyped-def]
        usage = {"engine": {"prompt_tokens": 100, "completion_tokens": words}}
        manifest = {
            "stage": name.split("/")[0],
            "label": label,
            "parents": {"made_from": [asdict(each) for each in parents]},
            "cost": {"seconds": 1.5, "engines": usage},
        }
        return store.build(name, write, manifest)

    lengths = {"m1": 10, "m2": words}
    rollouts, measured, values = {}, [], []
    for model, length in lengths.items():
        rows = [_dialogue(name, length) for name in names]
        rollouts[model] = build(
            f"trajectories/{model}",
            f"rollout {model}",
            lambda folder, rows=rows: write_rows(folder / TRAJECTORIES, rows, Trajectory),
        )
        found = Measurements(
            model, "e", 6, {}, {"reply_words": {name: [float(length)] for name in names}}
        )
        values.append(found)
        measured.append(
            build(
                f"measurements/{model}",
                model,
                lambda folder, found=found: write_json(folder / MEASUREMENTS, asdict(found)),
                rollouts[model],
            )
        )
    quality = build(
        "quality/1",
        "",
        lambda folder: write_json(folder / QUALITY, asdict(compare(values, 200, seed))),
        *measured,
    )
    verdicts = [
        Judgement(name, "long", "m1", "m2", order, "model_b", "")
        for name in names
        for order in ("ab", "ba")
    ]

    def figures(folder: Path) -> None:
        pairs = [asdict(row) for row in summarise(verdicts)]
        write_json(folder / WIN_RATES, {"pairs": pairs, "position_bias": {}})
        write_json(folder / METRICS, [])

    figured = build("figures/1", "", figures, *rollouts.values())

    def report(folder: Path) -> None:
        (folder / REPORT).write_text("<!DOCTYPE html>")
        write_json(
            folder / RUN,
            {
                "config": config.model_dump(mode="json"),
                "models": list(lengths),
                "judgements": asdict(figured),
                "figures": asdict(figured),
                "quality": asdict(quality),
                "measured": [asdict(ref) for ref in measured],
                "rollouts": {model: asdict(ref) for model, ref in rollouts.items()},
            },
        )

    key = f"{seed:04x}{words:04x}"
    return store.folder(build(f"report/{key}", "", report, figured, quality))


def _dialogue(situation: str, words: int) -> Trajectory:
    turns = (
        TrajectoryTurn("user", "My cat ran away.", ()),
        TrajectoryTurn("assistant", " ".join(["well"] * words), ()),
    )
    return Trajectory(f"t-{situation}", situation, "My cat ran away.", "sad", turns)
