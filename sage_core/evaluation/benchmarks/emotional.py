"""Benchmarks of emotional intelligence, from files of the user's.

EQ-Bench v2 (Paech 2023) is lm-eval's own task: the model rates four emotions of a person from 0 to
10. EmoBench (Sabour et al. 2024) has its English questions here as multiple choice by likelihood,
as lm-eval asks the others. Its authors let a model write JSON, shuffle the choices, and count a
question of emotional understanding as right if both emotion and cause are, so these figures are a
variant and do not compare with theirs.
"""

from collections.abc import Mapping
from typing import Any

from sage_core.evaluation.benchmarks.benchmark import Benchmark, Row, SplitFile, among

EQ_BENCH = Benchmark(
    title="EQ-Bench v2",
    task="eq_bench",
    licence="MIT",
    metric="eqbench",
    columns=("prompt", "reference_answer_fullscale"),
    is_answered=lambda row: bool(row["reference_answer_fullscale"]),
    local=SplitFile("validation", documents=171),
    hub="validation",
    shipped="eq_bench/default.yaml",
)


def _is_english(row: Row) -> bool:
    return bool(row["language"] == "en")


def _emobench(task: str, title: str, question: str, choices: str, label: str) -> Benchmark:
    definition: Mapping[str, Any] = {
        "output_type": "multiple_choice",
        "doc_to_text": f"{{{{scenario}}}}\nQuestion: {question}\nAnswer:",
        "doc_to_choice": f"{{{{{choices}}}}}",
        "doc_to_target": f"{{{{{choices}.index({label})}}}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }
    return Benchmark(
        title=title,
        task=task,
        licence="MIT",
        metric="acc_norm",
        columns=("language", "scenario", "subject", choices, label),
        is_answered=among(label, choices),
        local=SplitFile("test"),
        keeps=_is_english,
        hub="",
        definition=definition,
    )


EMOBENCH_EA = _emobench(
    "emobench_ea",
    "EmoBench EA",
    "What is best for {{subject}} to do or to say?",
    "choices",
    "label",
)
EMOBENCH_EU_EMOTION = _emobench(
    "emobench_eu_emotion",
    "EmoBench EU, emotion",
    "What does {{subject}} feel in the end?",
    "emotion_choices",
    "emotion_label",
)
EMOBENCH_EU_CAUSE = _emobench(
    "emobench_eu_cause",
    "EmoBench EU, cause",
    "Why does {{subject}} feel {{emotion_label}}?",
    "cause_choices",
    "cause_label",
)
