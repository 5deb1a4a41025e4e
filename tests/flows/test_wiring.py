"""The paper's wiring: who is trained on what, and who talks to whom about what.

The pipeline's own flow runs here with its real stages, artefacts and tables. Only the three slow
parts are replaced: engines are scripted and say who they are, training writes the name of the model
that it would have made, and the corpus is four dialogues of Ann (user) and Bob (assistant).

A change of the code that leaves every single stage right can still join them wrongly. Each of these
changes makes a test here fail, or, where it says so, one in tests/training/test_seed_and_schedule:

- search or rollouts: the user is the agent, has the agent's adapter or profile; m0 or raw decoded
  with states, m0 or a judge with an adapter; m1's consent without states; the other half of the
  situations; the other section's sampling
- rounds: each starts from m1, or trains on the first round's text
- raw: trained with states, with other settings, or for half the steps (there)
- train_user ignored; a cut reply trained as a finished one
- annotation calibrated with another corpus, or not as the settings say
- preferences of the first round only; with dpo.pairs_from=last, not of the last model's search; DPO
  from another model than the last
- a model's measurements, collapse metrics or verdicts read from another one's rollouts; raw
  measured as a model with states
- the seed: another one in a request or a training, missing from a cache key, not used by a trainer
  (there)
- a learning rate that is not a cosine (there)
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
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
from sage_core.steps.reading import read_figures, read_measurements
from sage_core.storage import ArtifactRef, write_json, write_rows
from sage_core.training.job import TRAINING_LOG, Job
from tasks import caching, engines, making, runs
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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """A run with two rounds, preferences of all rounds and m1 trained on both sides."""
    with pytest.MonkeyPatch.context() as patch:
        yield run(patch, tmp_path_factory.mktemp("home"))


PAIRS = (("m0", "m1"), ("raw", "m1"), ("m1", "m2"), ("m2", "m3"), ("m3", "dpo"), ("m0", "dpo"))
MODELS = {
    "all": ("m0", "raw", "m1", "m2", "m3", "dpo"),
    "plain": ("m0", "raw"),
    "chains": ("m1", "m2", "m3", "dpo"),
    "sft": ("raw", "m1", "m2", "m3"),
    "rounds": ("m1", "m2", "m3"),
    "searched": ("m1", "m2"),
    "m0": ("m0",),
    "m1": ("m1",),
    "dpo": ("dpo",),
    "pairs": tuple(f"{a}-{b}" for a, b in PAIRS),
}
"""Whom a row of the tables is for: each of these in place of its X."""


GIVEN = {
    "m1": {
        "base-model m0": "",
        "model-trial": "base: base-model m0",
        "training-dialogues": "corpora: corpus",
        "situations search": "",
        "situations evaluation": "",
        "annotate-shard": "dialogues: training-dialogues",
        "situation-scores": "situations: situations search",
        "annotated-dialogues": "parts: annotate-shard; situations: situation-scores",
        "grammar-probe": "agent: sft m1; situations: situations search",
        "chain-text raw": "annotated: annotated-dialogues",
        "chain-text m1": "annotated: annotated-dialogues",
        "sft raw": "dialogues: chain-text raw",
        "sft m1": "dialogues: chain-text m1",
        "sft m2": "dialogues: selected-dialogues m1; parent: sft m1",
        "sft m3": "dialogues: selected-dialogues m2; parent: sft m2",
        "preferences": "trajectories: searched [m1, m2]",
        "dpo": "pairs: preferences; parent: sft m3",
        "judgements": "parts: judge-pair m0 [m0-m1, raw-m1, m1-m2, m2-m3, m3-dpo, m0-dpo]",
        "quality": "measured: measurements [m0, raw, m1, m2, m3, dpo]",
        "steering-evidence m1": "agent: sft m1; situations: situations evaluation",
        "figures": "judgements: judgements; "
        "rollouts: trajectories rollout [m0, raw, m1, m2, m3, dpo]",
        "report": "corpus: corpus; dialogues: training-dialogues; annotated: annotated-dialogues; "
        "probe: grammar-probe; searches: searched [m1, m2]; "
        "collapse: collapse-metrics [m1, m2, m3]; "
        "checkpoints: sft [raw, m1, m2, m3], dpo; "
        "rollouts: trajectories rollout [m0, raw, m1, m2, m3, dpo]; "
        "judgements: judgements; figures: figures; "
        "measured: measurements [m0, raw, m1, m2, m3, dpo]; "
        "quality: quality; steering: steering-evidence m1",
    },
    "searched": {
        "search-shard X": "agent: sft X; user: sft m1; situations: situations search",
        "searched X": "parts: search-shard [X]",
        "selected-dialogues X": "trajectories: searched X",
    },
    "m0": {"rollout-shard X": "user: sft m1; situations: situations evaluation"},
    "sft": {"rollout-shard X": "agent: sft X; user: sft m1; situations: situations evaluation"},
    "dpo": {"rollout-shard X": "agent: dpo; user: sft m1; situations: situations evaluation"},
    "all": {
        "trajectories rollout X": "parts: rollout-shard [X]",
        "measurements X": "rollouts: trajectories rollout X",
    },
    "rounds": {
        "collapse-metrics X": "agent: sft X; rollouts: trajectories rollout X; "
        "measured: measurements X",
    },
}


def test_what_each_stage_is_given(found: Recorder) -> None:
    judged = {
        f"judge-pair m0 {a}-{b}": f"rollouts_a: trajectories rollout {a}; "
        f"rollouts_b: trajectories rollout {b}"
        for a, b in PAIRS
    }
    given = {
        stage.replace("X", model): inputs.replace("X", model)
        for models, rows in GIVEN.items()
        for model in MODELS[models]
        for stage, inputs in rows.items()
    }
    assert found.given == {**given, **judged}


ASKED = """
for       stage                who  what             about     profile  sees    writes  draws
m1        annotate-shard       m0   scores annotate  -         -        -       words   -
m1        situation-scores     m0   scores annotate  search    -        -       words   -
m1        grammar-probe        m1   writes agent     search    agent    states  states  1 at 1.1
searched  search-shard X       X    writes agent     search    agent    states  states  3 at 1.1
searched  search-shard X       m1   writes user      search    agent    states  user's  1 at 1.1
searched  search-shard X       m1   writes user      search    user     states  states  1 at 1.1
searched  search-shard X       m0   scores score     -         -        -       words   -
plain     rollout-shard X      X    writes agent     held-out  agent    words   words   1 at 0.9
chains    rollout-shard X      X    writes agent     held-out  agent    states  states  1 at 0.9
all       rollout-shard X      m1   writes user      held-out  agent    states  user's  1 at 0.9
all       rollout-shard X      m1   writes user      held-out  user     states  states  1 at 0.9
all       measurements X       m0   scores score     -         -        -       words   -
rounds    collapse-metrics X       m0   scores agent     held-out  agent    states  states  1 at 0.9
rounds    collapse-metrics X       X    scores agent     held-out  agent    states  states  1 at 0.9
pairs     judge-pair m0 X      m0   writes judge     held-out  -        -       words   -
m1        steering-evidence X  m1   writes steer     held-out  agent    states  states  1 at 0.9
m1        steering-evidence X  m1   scores steer     held-out  agent    states  states  1 at 0.9
"""


def rows_of(table: str) -> set[tuple[str, ...]]:
    found = set()
    for line in table.strip().splitlines()[1:]:
        models, *row = re.split(r" {2,}", line)
        found |= {tuple(cell.replace("X", model) for cell in row) for model in MODELS[models]}
    return found


def test_who_is_asked_what(found: Recorder) -> None:
    assert found.asked == rows_of(ASKED)


TRAINED = {
    "raw": "m0, sft, seed 7; 4 agent with words: 8 Bob, 4 to Ann; "
    "4 user with words: 4 Ann, 4 to Bob",
    "m1": "m0, sft, seed 7; 4 agent with states: 8 Bob, 4 to Ann; "
    "4 user with states: 4 Ann, 4 to Bob",
    "m2": "m1, refine.sft, seed 7; 3 agent with states: 1 cut, 6 m1, 3 to m1, 3 to search",
    "m3": "m2, refine.sft, seed 7; 3 agent with states: 1 cut, 6 m2, 3 to m1, 3 to search",
    "dpo": "m3, dpo, seed 7; 12 agent with states: 2 chosen cut, 6 chosen m1, 6 chosen m2, "
    "2 rejected cut, 6 rejected m1, 6 rejected m2, 6 to m1, 12 to search",
}


def test_who_is_trained_on_what(found: Recorder) -> None:
    """From which model, with which section of the settings, on how many examples of which view;
    whose words are trained, how many replies were cut, and whose words they answer."""
    assert found.trained == TRAINED
    assert found.tracked == {
        "raw": "sft raw from m0 on chain-text raw",
        "m1": "sft m1 from m0 on chain-text m1",
        "m2": "sft m2 from m1 on selected-dialogues m1",
        "m3": "sft m3 from m2 on selected-dialogues m2",
        "dpo": "dpo from m3 on preferences",
    }


def test_all_draws_are_of_the_seed(found: Recorder) -> None:
    assert found.seeds == {SEED}


def test_states_are_measured_of_models_that_write_them(found: Recorder) -> None:
    folders = {name: store().folder(ref) for ref, name in found.names.items()}
    measured = [
        name
        for name in MODELS["all"]
        if "emotion_accuracy" in read_measurements(folders[f"measurements {name}"]).values
    ]
    _, metrics = read_figures(folders["figures"])
    assert tuple(measured) == MODELS["chains"]
    shown = [each["model"] for each in metrics if each["emotion_accuracy"]["n"]]
    assert tuple(shown) == MODELS["chains"]


def test_a_finished_run_can_be_read_back(found: Recorder) -> None:
    run = runs.read(runs.find("last"), "A")
    assert tuple(each.model for each in run.quality.models) == MODELS["all"]
    assert tuple(each.model for each in run.measured) == MODELS["all"]
    assert run.config == found.settings
    assert {(each.model_a, each.model_b) for each in run.summaries} == set(PAIRS)
    assert {"sft", "dpo", "judge-pair", "report"} <= run.costs.keys()


def test_other_settings_change_only_what_they_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Recorder
) -> None:
    """Preferences of one more search, emotions compared with the corpus, the agent's side only."""
    other = run(
        monkeypatch, tmp_path, dpo={"pairs_from": "last"}, conversation={"train_user": False},
        annotation={**ANNOTATION, "calibration": "corpus"},
    )  # fmt: skip
    report = found.given["report"].replace("searched [m1, m2]", "searched [m1, m2, m3]")
    changed = {
        "annotated-dialogues": "parts: annotate-shard",
        "search-shard m3": "agent: sft m3; user: sft m1; situations: situations search",
        "searched m3": "parts: search-shard [m3]",
        "preferences": "trajectories: searched [m3]",
        "report": report,
    }
    assert other.given == {
        key: value for key, value in {**found.given, **changed}.items() if key != "situation-scores"
    }
    before = {row for row in found.asked if row[0] != "situation-scores"}
    again = {tuple(cell.replace("m2", "m3") for cell in row) for row in before
             if row[0] == "search-shard m2"}  # fmt: skip
    assert other.asked == before | again
    assert other.trained == {
        **TRAINED,
        "raw": "m0, sft, seed 7; 4 agent with words: 8 Bob, 4 to Ann",
        "m1": "m0, sft, seed 7; 4 agent with states: 8 Bob, 4 to Ann",
        "dpo": "m3, dpo, seed 7; 6 agent with states: 1 chosen cut, 6 chosen m3, 1 rejected cut, "
        "6 rejected m3, 3 to m1, 6 to search",
    }
