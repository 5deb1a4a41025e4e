"""The benchmarks that show which abilities a model has kept (paper, Table 2), run by lm-eval.

A name stands for a :class:`sage_core.evaluation.benchmarks.benchmark.Benchmark`. To add one: a
declaration in a module here, and its line in the table.
"""

from sage_core.named import Registry

_PAPER = "sage_core.evaluation.benchmarks.paper"
_EMOTIONAL = "sage_core.evaluation.benchmarks.emotional"

PAPER = (
    "hellaswag", "arc_challenge", "arc_easy", "mmlu", "winogrande", "openbookqa", "piqa",
    "social_iqa", "commonsense_qa", "gsm8k",
)  # fmt: skip
"""Table 2, in its order. ``paper`` stands for all of them."""

BENCHMARKS = Registry(
    setting="benchmarks.tasks",
    what="benchmark",
    table={
        "paper": PAPER,
        **{name: f"{_PAPER}:{name.upper()}" for name in PAPER},
        "eq_bench": f"{_EMOTIONAL}:EQ_BENCH",
        "emobench_ea": f"{_EMOTIONAL}:EMOBENCH_EA",
        "emobench_eu_emotion": f"{_EMOTIONAL}:EMOBENCH_EU_EMOTION",
        "emobench_eu_cause": f"{_EMOTIONAL}:EMOBENCH_EU_CAUSE",
    },
)
