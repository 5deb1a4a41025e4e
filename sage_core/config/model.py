"""The base model."""

from typing import Literal

from pydantic import Field, JsonValue

from sage_core.config.section import NEVER_RUN, Positive, Runtime, Section

EMBEDDED_MODEL = "smollm2-135m-instruct"


class ModelConfig(Section):
    """The base model m0."""

    base: str = Field(
        EMBEDDED_MODEL,
        description=f"'{EMBEDDED_MODEL}' (embedded), a model folder, or a hub name ORG/NAME.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="'auto': bfloat16 on a GPU and on processors with instructions for it (AMX, "
        "AVX-512 BF16), else float32, which is several times faster on the others.",
    )
    quantization: Literal["none", "4bit"] = Field(
        "none",
        description="'4bit': the base in NF4 (QLoRA), which needs bitsandbytes and a GPU; "
        f"{NEVER_RUN}.",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = Field(
        "auto",
        description="Of passes that neither share prompts nor are packed, which have an attention "
        "of their own. 'auto': PyTorch's, 'sdpa', where the model supports it, else 'eager'. "
        f"'flash_attention_2' and '_3' need a GPU and their packages; {NEVER_RUN}.",
    )
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'.")
    chat_template_arguments: dict[str, JsonValue] = Field(
        {},
        description="Arguments of the model's chat template, such as {enable_thinking: false}; not "
        "for the embedded model.",
    )
    max_context: Positive = Field(
        2048,
        description="Longest prompt and reply together, in tokens; a longer conversation loses its "
        "oldest turns.",
    )
    batch_size: Runtime[Positive] = Field(64, description="Sequences generated together.")
    prefill_tokens: Runtime[Positive] = Field(
        8192, description="Prompt tokens read together at most."
    )
    resident_adapters: Runtime[Positive] = Field(4, description="Adapters kept in memory at once.")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
