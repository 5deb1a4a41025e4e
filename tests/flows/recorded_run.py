"""A run with scripted engines and trainings that notes who is given what, and asked what."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from scripted_engine import ScriptedEngine

from flows import pipeline as module
from sage_core.config.conversation import ConversationConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import DIALOGUES, FUNNEL
from sage_core.engines import loading
from sage_core.engines.base import Completion, Request, draw_seed
from sage_core.evaluation import embedding
from sage_core.schema import (
    Dialogue,
    Message,
    PreferencePair,
    Situation,
    Split,
    TrainingDialogue,
)
from sage_core.steps import dpo, model_trial, sft
from sage_core.steps.base import Model, Step
from sage_core.storage import ArtifactRef, write_json, write_rows
from sage_core.training.job import TRAINING_LOG, Job
from tasks import caching, engines, making
from tasks.home import store

SEED = 7
GROUPS = (
    "{u_motivation: vent, u_emotion: sad, u_topic: [x]} ",
    "{a_motivation: cheer, a_emotion: calm, a_topic: [y]} ",
)
HALVES: dict[str, Split] = {"search": "search", "held-out": "evaluation"}
TOPICS = ("garden", "lake", "kitchen", "mountain")
ANNOTATION = {
    "method": "score", "topics": "extracted", "calibration": "situations",
    "motivations": ["sharing", "question"], "emotions": ["sad", "joyful"],
}  # fmt: skip


# Each role's engine has settings of its own: a step that asks one that it does not name is refused.
def engine(role: int) -> dict[str, Any]:
    return {"kind": "vllm", "max_retries": role}


ROLES = {"agent_engine": engine(1), "user_engine": engine(2)}
SELECTOR = {"relevance": True, "engine": engine(3)}
SMALL = {"epochs": 1, "batch_size": 2, "micro_batch_size": 1}


def config(situations: Path, **changes: Any) -> PipelineConfig:
    selfplay = {"max_turns": 4, "shard_size": 2, **ROLES}
    return PipelineConfig.model_validate(
        {
            "seed": SEED,
            "annotation": ANNOTATION,
            "sft": {**SMALL, "learning_rate": 1e-3},
            "situations": {"path": situations},
            "conversation": {"train_user": True},
            "search": {"candidates": 3, "selfplay": selfplay, "selector": SELECTOR},
            "refine": {"rounds": 2, "sft": {**SMALL, "learning_rate": 1e-4}},
            "evaluation": {
                "selfplay": {**selfplay, "sampling": {"temperature": 0.9}},
                "judges": [{"name": "m0", "engine": engine(4)}],
                "bootstrap_samples": 100,
            },
            "steering_report": {
                "draws": 1, "boosts": [0.0], "wordings": 1, "emotions": ["playful"],
                "motivations": ["humor"], "topics": [["music"]],
            },
            **changes,
        }
    )  # fmt: skip


class Recorder:
    """What each stage of a run was given, what each model was asked, what each was trained on."""

    def __init__(self, settings: PipelineConfig) -> None:
        self.settings = settings
        self.names: dict[ArtifactRef, str] = {}
        self.given: dict[str, str] = {}
        self.asked: set[tuple[str, ...]] = set()
        self.trained: dict[str, str] = {}
        self.tracked: dict[str, str] = {}
        self.seeds: set[int] = set()
        self._stage = ""

    def make(self, step: Step, label: str = "") -> ArtifactRef:
        """Run a step as without Prefect."""
        self._stage = name = re.sub(r" ?\d+/\d+$", "", f"{step.name} {label}".strip())
        given = {field.name: self._shown(getattr(step, field.name)) for field in fields(step)}
        self.given[name] = "; ".join(f"{key}: {value}" for key, value in given.items() if value)
        ref = making.make(step, label)
        self.names[ref] = name
        return ref

    def _shown(self, value: Any) -> str:
        """The artefacts in an input; several of a kind as ``kind [which, which]``."""
        if isinstance(value, ArtifactRef):
            return self.names[value]
        if isinstance(value, Model):
            assert self.names[value.base] == "base-model m0"
            assert bool(value.adapter) == (value.name != "m0")
            if value.adapter:
                assert self.names[value.adapter].split()[-1] == value.name
            return self._shown(value.adapter)
        if isinstance(value, dict):
            for key, each in value.items():
                assert not isinstance(each, ArtifactRef) or self.names[each].split()[-1] == key
            value = list(value.values())
        if not isinstance(value, list | tuple):
            return ""
        kinds: dict[str, list[str]] = {}
        for each in dict.fromkeys(filter(None, map(self._shown, value))):
            kind, _, which = each.rpartition(" ")
            kinds.setdefault(kind, []).append(which)
        return ", ".join(
            f"{kind} [{', '.join(which)}]".lstrip() if kind else ", ".join(which)
            for kind, which in kinds.items()
        )

    def engine(
        self, settings: object, base: Path, model: object, adapter: Path | None, home: Path
    ) -> ScriptedEngine:
        return Scripted(self, ((adapter or base) / "name").read_text())

    def request(self, who: str, does: str, request: Request) -> None:
        """Note one row of the table of what models are asked."""
        self.seeds.add(request.seed)
        name = request.request_id
        (part,) = re.findall("opening|agent|steer|^annotate|^score|^judge|^user", name)[:1]
        half = (*re.findall("search|held-out", name), "-")[0]
        profile, sees = view_of(request.messages)
        draws = f"{request.n} at {request.sampling.temperature}" if profile != "-" else "-"
        row = (self._stage, who, f"{does} {part}", half, profile, sees, written(request), draws)
        self.asked.add(row)

    def train(
        self,
        folder: Path,
        job: Job,
        rows: Sequence[TrainingDialogue | PreferencePair],
        settings: Any,
        work: Path,
        on_step: object,
    ) -> None:
        """In place of training: note from what, with which settings and on what."""
        config = self.settings
        assert (job.lora, job.training, job.model) == (config.lora, config.training, config.model)
        sections = {"sft": config.sft, "refine.sft": config.refine.sft, "dpo": config.dpo}
        (section,) = [name for name, each in sections.items() if each == settings]
        parent = ((job.parent or job.base) / "name").read_text()
        assert (job.base / "name").read_text() == "m0"
        self.trained[job.name] = f"{parent}, {section}, seed {job.seed}; {contents(rows)}"
        (folder / "name").write_text(job.name)
        write_json(folder / TRAINING_LOG, {"history": [{"step": 1, "loss": 1.0}]})


class Scripted(ScriptedEngine):
    """A model that says who it is."""

    def __init__(self, recorder: Recorder, who: str) -> None:
        self._recorder, self._who = recorder, who
        super().__init__(self._say, lambda request, option: -float(crc32(option.encode()) % 99))

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for request in requests:
            self._recorder.request(self._who, "writes", request)
        return [
            [replace(each, finish_reason="length" if is_cut(request) else "stop") for each in row]
            for request, row in zip(requests, super().generate(requests), strict=True)
        ]

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        for request in requests:
            self._recorder.request(self._who, "scores", request)
        return super().choose(requests, options)

    def _say(self, request: Request, candidate: int) -> str:
        if request.request_id.endswith("/opening"):
            return GROUPS[0]
        if request.request_id.startswith("judge/"):
            return "Verdict: A"
        states = "".join(GROUPS[request.prefix.count("}") :]) if request.opens_with_states else ""
        return f"{states}{self._who} says {draw_seed(request, candidate) % 1000}."


def is_cut(request: Request) -> bool:
    """The second reply about one of the situations never ends within its limit."""
    return bool(re.search("-1/3/agent", request.request_id))


def written(request: Request) -> str:
    if request.request_id.endswith("/opening"):
        return "user's"
    return "states" if request.opens_with_states or "{u_" in request.prefix else "words"


def view_of(messages: Sequence[Message]) -> tuple[str, str]:
    """Whose profile opens the messages ('-': nobody's), and whether all of the speaker's own turns
    have states."""
    profiles = ConversationConfig()
    asks = {profiles.agent.ask: "agent", profiles.user.ask: "user"}
    if (profile := asks.get(messages[0].content)) is None:
        return "-", "-"
    own = {message.content[:3] == "{u_" for message in messages if message.role == "assistant"}
    others = any("{" in message.content for message in messages if message.role == "user")
    states = "mixed" if len(own) > 1 else "states" if own == {True} else "words"
    return profile, "the other's" if others else states


def contents(rows: Sequence[TrainingDialogue | PreferencePair]) -> str:
    """The examples by the speaker's view: how many, who says what is trained and how often, how
    many of that was cut, and in how many examples whom it answers."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        pair = isinstance(row, PreferencePair)
        messages = row.prompt if pair else row.messages
        profile, sees = view_of(messages)
        count = found.setdefault(f"{profile} with {sees}", Counter())
        if pair:
            told = {"chosen": row.chosen, "rejected": row.rejected}
            assert all(text.startswith("{u_") for text in told.values())
            count["chosen cut"] += row.chosen_cut
            count["rejected cut"] += row.rejected_cut
            count.update(f"{key} {speaker(text)}" for key, text in told.items())
        else:
            for message, loss in zip(messages, row.losses, strict=True):
                if loss != "none":
                    count[speaker(message.content)] += 1
                    count["cut"] += loss == "open"
        count["n"] += 1
        others = " ".join(message.content for message in messages if message.role == "user")
        heard = re.findall(r"(\w+) says|(search|held-out) one", others)
        count.update({f"to {who or half}" for who, half in heard})
    return "; ".join(
        f"{count.pop('n')} {view}: "
        + ", ".join(f"{n} {what}" for what, n in sorted(count.items()) if n)
        for view, count in sorted(found.items())
    )


def speaker(text: str) -> str:
    """Who says it."""
    (who,) = re.findall(r"(\w+) says", text)
    return str(who)


class Tracker:
    """Takes all that is tracked; keeps the lineage of the checkpoints."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def checkpoint(self, name: str, ref: ArtifactRef, *, parent: str, data: ArtifactRef) -> None:
        names = self._recorder.names
        self._recorder.tracked[name] = f"{names[ref]} from {parent} on {names[data]}"

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def run(monkeypatch: pytest.MonkeyPatch, home: Path, **changes: Any) -> Recorder:
    monkeypatch.setenv("SAGE_HOME", str(home))
    situations = home / "situations.jsonl"
    rows = [
        Situation(f"{half}-{number}", f"I found a {half} one, {topic}!", "joyful", split)
        for half, split in HALVES.items()
        for number, topic in enumerate(TOPICS[:3])
    ]
    situations.write_text("\n".join(json.dumps(asdict(row)) for row in rows))
    settings = config(situations, **changes)
    recorder = Recorder(settings)

    def corpus(folder: Path) -> None:
        said = ("Ann says {} is fun.", "Bob says tell me!", "Ann says no.", "Bob says oh.")
        rows = [
            Dialogue(
                f"d{topic}", "test", f"t{topic}",
                tuple(Message(role, line.format(topic))
                      for role, line in zip(("user", "assistant") * 2, said, strict=True)),
            )
            for topic in TOPICS
        ]  # fmt: skip
        write_rows(folder / DIALOGUES, rows, Dialogue)
        write_json(folder / FUNNEL, [{"step": "read", "kept": len(rows), "dropped": 0}])

    def build_corpus(settings: object) -> ArtifactRef:
        ref = store().build("corpus/0", corpus, {"stage": "corpus", "label": ""})
        recorder.names[ref] = "corpus"
        return ref

    monkeypatch.setattr(caching, "make", recorder.make)
    monkeypatch.setattr(module, "make", recorder.make)
    monkeypatch.setattr(module, "build_corpus", build_corpus)
    monkeypatch.setattr(
        loading, "prepare_base", lambda folder, model: (folder / "name").write_text("m0")
    )
    monkeypatch.setattr(model_trial, "try_model", lambda base, model, lora, training: {})
    monkeypatch.setattr(engines, "open_engine", recorder.engine)
    monkeypatch.setattr(sft, "train_sft", recorder.train)
    monkeypatch.setattr(dpo, "train_dpo", recorder.train)
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    monkeypatch.setattr(module, "tables", Tracker(recorder))
    monkeypatch.setattr(module, "get_run_logger", lambda: Tracker(recorder))
    module.run_method(settings, Tracker(recorder))  # type: ignore[arg-type]
    return recorder
