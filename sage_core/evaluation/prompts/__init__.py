"""What judges are asked: each module is one question, a text.

The conversations and the form of the answer follow it; they are the same for all
(:mod:`sage_core.evaluation.judge`). To add one: a module here, and its line in the table. A
question in MLflow's prompt registry is named by its address there (:mod:`tasks.prompts`).
"""

from sage_core.named import Registry

PROMPTS = Registry(
    setting="evaluation.judges.prompt",
    what="judge prompt",
    table={
        "open": "sage_core.evaluation.prompts.open:QUESTION",
        "companion": "sage_core.evaluation.prompts.companion:QUESTION",
    },
    kept=r"prompts:/[\w.-]+(?:/[1-9]\d*|@[\w.-]+)",
    kept_form="one of MLflow's as prompts:/name/version or prompts:/name@alias",
)
