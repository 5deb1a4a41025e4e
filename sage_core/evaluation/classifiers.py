"""Refusal, toxicity or what else a text classifier of the user's was trained to find in replies.

The figure of a model is the mean probability of a class over its replies on held-out situations.
The classifier reads a reply alone, without its states. It was trained on other texts than these, so
compare models by it rather than believe its level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_core.config.evaluation import ClassifierConfig
from sage_core.errors import ConfigError
from sage_core.evaluation.quality import BASELINE, Figure, Values, paired_difference
from sage_core.sac import utterance_of
from sage_core.schema import Trajectory

_BATCH = 16
_SINGLE = "multi_label_classification"  # transformers' word for outputs that do not sum to 1


@dataclass(frozen=True)
class Classified:
    """A model's replies in the eyes of a classifier.

    Attributes:
        values: the probability of the class for each reply, in order.
        figure: their mean, with a 95% bootstrap over situations, which are drawn with all their
            replies; n counts replies, and ``vs_m1`` the situations that m1 has too.
        cut: replies that are longer than the classifier reads; it read their beginning.
    """

    model: str
    figure: Figure
    cut: int
    values: Values


@dataclass(frozen=True)
class ClassifierFigures:
    """All models in the eyes of one classifier, in the order of their making."""

    name: str
    label: str
    models: tuple[Classified, ...]


def check(settings: ClassifierConfig) -> None:
    """
    Raises:
        ConfigError: the folder does not hold a text classifier with this class.
    """
    folder = settings.path
    setting = f"evaluation.classifiers: the folder '{folder}' of '{settings.name}'"
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{setting} is no model folder; give one with config.json, *.safetensors weights and "
            "tokenizer, as save_pretrained writes it"
        )
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    labels = list((found.id2label or {}).values())
    if settings.label not in labels:
        raise ConfigError(
            f"{setting} has no class '{settings.label}'; its classes are {', '.join(labels)}"
        )


def classify(
    settings: ClassifierConfig,
    device: str,
    rollouts: Mapping[str, Sequence[Trajectory]],
    bootstrap_samples: int,
    seed: int,
) -> ClassifierFigures:
    """Read all models' replies; those after m1 are held against it.

    Raises:
        ConfigError: see :func:`check`.
    """
    check(settings)
    tokenizer, model = _load(settings.path, device)
    baseline: Values | None = None
    found = []
    for name, trajectories in rollouts.items():
        values: Values = {}
        texts = [
            (each.situation_id, utterance_of(turn.content))
            for each in trajectories
            for turn in each.turns
            if turn.role == "assistant"
        ]
        probabilities, cut = _probabilities(tokenizer, model, settings.label, [t for _, t in texts])
        for (situation, _), probability in zip(texts, probabilities, strict=True):
            values.setdefault(situation, []).append(probability)
        figure = _figure(values, baseline, bootstrap_samples, seed)
        found.append(Classified(name, figure, cut, values))
        if name == BASELINE:
            baseline = values
    return ClassifierFigures(settings.name, settings.label, tuple(found))


def key_figures(found: ClassifierFigures) -> dict[str, dict[str, float]]:
    """Model -> the figures to log, named for a tracker."""
    name = f"classifier.{found.name}"
    logged = {}
    for each in found.models:
        figure, versus = each.figure, each.figure.vs_m1
        values = {
            name: figure.value,
            f"{name}.ci_low": figure.ci_low,
            f"{name}.ci_high": figure.ci_high,
            f"{name}.vs_m1": versus.value if versus else None,
            f"{name}.vs_m1.ci_low": versus.ci_low if versus else None,
            f"{name}.vs_m1.ci_high": versus.ci_high if versus else None,
        }
        logged[each.model] = {key: value for key, value in values.items() if value is not None}
    return logged


def _figure(values: Values, baseline: Values | None, samples: int, seed: int) -> Figure:
    # Against zero everywhere the paired difference is the mean, with situations drawn as wholes.
    nothing = {situation: [0.0] * len(each) for situation, each in values.items()}
    mean = paired_difference(nothing, values, samples, seed)
    versus = None if baseline is None else paired_difference(baseline, values, samples, seed)
    replies = sum(len(each) for each in values.values())
    return Figure(replies, mean.value, mean.ci_low, mean.ci_high, versus)


def _probabilities(
    tokenizer: Any, model: Any, label: str, texts: Sequence[str]
) -> tuple[list[float], int]:
    """The probability of the class for each text, and how many texts were cut."""
    import torch

    column = next(number for number, name in model.config.id2label.items() if name == label)
    limit = min(
        tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 512
    )
    alone = model.config.num_labels == 1 or model.config.problem_type == _SINGLE
    found: list[float] = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]),
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            logits = model(**batch).logits.float()
        shares = logits.sigmoid() if alone else logits.softmax(dim=-1)
        found += shares[:, column].tolist()
    lengths = tokenizer(list(texts), truncation=False)["input_ids"] if texts else []
    return found, sum(len(each) > limit for each in lengths)


def _load(folder: Path, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False
    )
    return tokenizer, model.to(device).eval()
