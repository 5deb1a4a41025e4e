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

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded_run import ANNOTATION, SEED, Recorder, run

from sage_core.steps.reading import read_figures, read_measurements
from tasks import runs
from tasks.home import store


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
        "sft m2": "parent: sft m1; dialogues: selected-dialogues m1",
        "sft m3": "parent: sft m2; dialogues: selected-dialogues m2",
        "preferences": "trajectories: searched [m1, m2]",
        "dpo": "parent: sft m3; pairs: preferences",
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
