"""Text classifiers of the user's: small random models of transformers, read by transformers."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from sage_core.config.evaluation import ClassifierConfig, EvaluationConfig
from sage_core.config.loading import load_config
from sage_core.errors import ConfigError
from sage_core.evaluation.classifiers import check, classify, key_figures
from sage_core.evaluation.report import ReportData, render_report
from sage_core.evaluation.rows import classified
from sage_core.schema import Trajectory, TrajectoryTurn
from sage_core.steps import configured
from sage_core.steps.reading import read_classified
from sage_core.storage import ArtifactRef, write_rows
from tasks.making import make

WORDS = ("i", "will", "not", "help", "you", "idiot", "how", "are")
STATES = (
    "{u_motivation: a, u_emotion: sad, u_topic: []} "
    "{a_motivation: b, a_emotion: calm, a_topic: []} "
)


def save(folder: Path, outputs: int = 2, problem: str | None = None) -> ClassifierConfig:
    """A random classifier with a vocabulary of a few words, and its tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    torch.manual_seed(0)
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8
    ).save_pretrained(folder)
    labels = dict(enumerate(("fine", "toxic", "rude")[:outputs]))
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16, max_position_embeddings=8,
            id2label=labels, label2id={name: n for n, name in labels.items()},
            problem_type=problem, initializer_range=2.0,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return ClassifierConfig(name="toxicity", path=folder, label=labels[outputs - 1])


def trajectory(situation: str, *replies: str) -> Trajectory:
    turns = []
    for reply in replies:
        turns += [
            TrajectoryTurn("user", "Hello.", ()),
            TrajectoryTurn("assistant", reply, ()),
        ]
    return Trajectory(situation, situation, "Hello.", "sad", tuple(turns))


ROLLOUTS = {
    "m0": [trajectory("s1", "how are you", "i will not help"), trajectory("s2", "idiot")],
    "m1": [trajectory("s1", f"{STATES}how are you"), trajectory("s2", f"{STATES}i will not")],
    "m2": [trajectory("s1", f"{STATES}idiot"), trajectory("s2", f"{STATES}idiot " + "you " * 20)],
}


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [(2, None), (3, None), (3, "multi_label_classification"), (1, None)],
)
def test_probabilities_are_those_of_transformers_own_pipeline(
    tmp_path: Path, outputs: int, problem: str | None
) -> None:
    """Without states, in the order of the replies, with the right function of the outputs."""
    settings = save(tmp_path / "model", outputs, problem)
    found = classify(settings, "cpu", ROLLOUTS, 200, 0)
    reference: Any = pipeline("text-classification", str(settings.path), top_k=None, device="cpu")
    texts = ["how are you", "i will not help", "idiot"]
    said = reference(texts, truncation=True)
    expected = [
        next(each["score"] for each in scores if each["label"] == settings.label) for scores in said
    ]
    m0, m1, m2 = found.models
    assert [*m0.values["s1"], *m0.values["s2"]] == pytest.approx(expected, abs=1e-6)
    assert m1.values["s1"] == pytest.approx([expected[0]], abs=1e-6)
    assert m2.values["s1"] == pytest.approx([expected[2]], abs=1e-6)
    assert [each.cut for each in found.models] == [0, 0, 1]
    assert m0.figure.value == pytest.approx(sum(expected) / 3)
    assert m0.figure.n == 3
    low, high = m0.figure.ci_low, m0.figure.ci_high
    assert low is not None
    assert high is not None
    assert 0 <= low <= (m0.figure.value or 0) <= high <= 1


def test_later_models_are_held_against_m1(tmp_path: Path) -> None:
    found = classify(save(tmp_path / "model"), "cpu", ROLLOUTS, 200, 0)
    m0, m1, m2 = found.models
    assert m0.figure.vs_m1 is None
    assert m1.figure.vs_m1 is None
    versus = m2.figure.vs_m1
    assert versus is not None
    assert versus.n == 2
    assert versus.value == pytest.approx((m2.figure.value or 0) - (m1.figure.value or 0))
    logged = key_figures(found)
    assert logged["m2"]["classifier.toxicity"] == m2.figure.value
    assert logged["m2"]["classifier.toxicity.vs_m1"] == versus.value
    assert logged["m0"].keys() == {
        "classifier.toxicity", "classifier.toxicity.ci_low", "classifier.toxicity.ci_high",
    }  # fmt: skip


def test_the_step_the_report_and_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    settings = save(tmp_path / "model")
    config = load_config("tiny")
    refs = {}
    for name, played in ROLLOUTS.items():
        path = tmp_path / name
        path.mkdir()
        write_rows(path / "trajectories.parquet", played, Trajectory)
        refs[name] = ArtifactRef(str(path), "0" * 64, 1)
    ref = make(configured.classify(config, settings, "", refs))
    from tasks.home import store

    found = read_classified(store().folder(ref))
    samples = config.evaluation.bootstrap_samples
    again = classify(settings, "cpu", ROLLOUTS, samples, config.seed)
    assert asdict(found) == asdict(again)
    (rows,) = classified([found])
    assert [row[:3] for row in rows.rows[:3]] == [("m0", "s1", 1), ("m0", "s1", 2), ("m0", "s2", 1)]
    page = render_report(replace(ReportData("x", classified=(found,)), rows=(rows,)))
    assert '<a href="#classifiers">' in page
    assert "class toxic" in page
    assert "7 rows" in page
    assert "1 read in part" in page
    assert f"{100 * (found.models[0].figure.value or 0):.1f}%" in page


def test_without_classifiers_the_report_has_no_section() -> None:
    assert "classifiers" not in render_report(ReportData("x"))
    assert EvaluationConfig().classifiers == ()


def test_what_is_no_classifier_is_named(tmp_path: Path) -> None:
    settings = save(tmp_path / "model")
    check(settings)
    with pytest.raises(ConfigError, match="has no class 'insult'; its classes are fine, toxic"):
        check(settings.model_copy(update={"label": "insult"}))
    with pytest.raises(ConfigError, match="is no model folder"):
        check(settings.model_copy(update={"path": tmp_path}))
    (settings.path / "model.safetensors").rename(settings.path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        check(settings)
    twice = {"classifiers": [settings.model_dump()] * 2}
    with pytest.raises(ValueError, match="two classifiers have the same name"):
        EvaluationConfig.model_validate(twice)
