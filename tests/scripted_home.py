"""A home of registered models over real files, artefacts and MLflow.

The models are scripted: each has a quality, which training raises by one where most of the new
dialogues are sunny, and lowers where they are foul. The judge prefers the better one.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from weather import weather_dialogues

from flows import pipeline, retraining
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines import loading
from sage_core.engines.base import Request, draw_seed
from sage_core.evaluation import embedding
from sage_core.schema import PreferencePair, TrainingDialogue
from sage_core.steps import dpo, model_trial, sft
from sage_core.storage import write_json
from sage_core.training.job import TRAINING_LOG, Job
from tasks import engines
from tasks.tracking import track

GROUPS = (
    "{u_motivation: vent, u_emotion: sad, u_topic: [x]} ",
    "{a_motivation: cheer, a_emotion: calm, a_topic: [y]} ",
)
SMALL = {"epochs": 1, "batch_size": 2, "micro_batch_size": 1}
SELFPLAY = {"max_turns": 2, "shard_size": 16}
OFF = {
    "min_action_entropy": 0, "min_distinct_2": 0, "min_reply_words": 0, "max_malformed": 1,
    "kl_replies": 0, "max_question_rate": 1, "max_stray_braces": 1, "max_cut_share": 1,
}  # fmt: skip


def config(home: Path, **changes: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "weekly",
            "corpus": {
                "reader": "messages", "input": home / "data", "rules": [], "min_turns": 2,
            },
            "annotation": {
                "method": "score", "topics": "extracted",
                "motivations": ["sharing", "question"], "emotions": ["sad", "joyful"],
            },
            "sft": SMALL,
            "search": {
                "candidates": 2, "situations": 2, "grammar_probe": 1, "selfplay": SELFPLAY,
                "selector": {"relevance": True},
            },
            "refine": {"rounds": 1, "sft": SMALL, "gates": OFF},
            "dpo": SMALL,
            "evaluation": {"situations": 2, "selfplay": SELFPLAY, "bootstrap_samples": 100},
            "steering_report": {"enabled": False},
            "retrain": {"situations": 20},
            **changes,
        }
    )  # fmt: skip


class Scripted(ScriptedEngine):
    """A model of some quality, which it says in every reply; as a judge, the best there is."""

    def __init__(self, quality: int) -> None:
        self._quality = quality
        super().__init__(self._say, lambda request, option: -float(len(option)))

    def _say(self, request: Request, candidate: int) -> str:
        if request.request_id.startswith("judge/"):
            a, b = request.messages[-1].content.split("Conversation B:")
            found = [int(re.findall(r"Quality (-?\d+)", text)[-1]) for text in (a, b)]
            return f"Verdict: {'tie' if found[0] == found[1] else 'AB'[found[1] > found[0]]}"
        if request.request_id.endswith("/opening"):
            return GROUPS[0]
        states = "".join(GROUPS[request.prefix.count("}") :]) if request.opens_with_states else ""
        return f"{states}Quality {self._quality}, word{draw_seed(request, candidate) % 1000}."


def train(
    folder: Path,
    job: Job,
    rows: Sequence[TrainingDialogue | PreferencePair],
    settings: Any,
    work: Path,
    on_step: object,
) -> None:
    quality = int(((job.parent or job.base) / "quality").read_text())
    text = " ".join(m.content for row in rows if isinstance(row, TrainingDialogue)
                    for m in row.messages)  # fmt: skip
    if job.name.endswith("-sft"):
        quality += 1 if text.count("sunny") > text.count("foul") else -1
    (folder / "quality").write_text(str(quality))
    (folder / "name").write_text(job.name)  # so that no two artefacts are the same
    log = {"examples": len(rows), "left_out": {}, "steps": 1, "history": [{"step": 1, "loss": 1.0}]}
    write_json(folder / TRAINING_LOG, log)


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


@contextmanager
def scripted(home: Path) -> Iterator[None]:
    """A home whose pipeline has run once on four dialogues."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SAGE_HOME", str(home))
        patch.setattr(loading, "prepare_base", prepare_base)
        patch.setattr(model_trial, "try_model", lambda base, model, lora, training: {})
        patch.setattr(engines, "open_engine", open_engine)
        patch.setattr(sft, "train_sft", train)
        patch.setattr(dpo, "train_dpo", train)
        patch.setattr(embedding, "PACKAGE", "no_such_package")
        patch.setattr(pipeline, "tables", Silent())
        patch.setattr(pipeline, "get_run_logger", Silent)
        patch.setattr(retraining.preflight, "check", lambda config: None)
        arrive(home, 0, "plain")
        with track(config(home)) as tracker:
            pipeline.run_method(config(home), tracker)
        yield


def prepare_base(folder: Path, model: object) -> None:
    (folder / "quality").write_text("0")
    write_json(folder / loading.BASE, {"base": "scripted", "weights": "."})


def open_engine(
    settings: object, base: Path, model: object, adapter: Path | None, home: Path
) -> Scripted:
    return Scripted(int(((adapter or base) / "quality").read_text()))


def arrive(home: Path, week: int, weather: str) -> None:
    """Four dialogues of a week's file."""
    weather_dialogues(home / "data", week, weather)
