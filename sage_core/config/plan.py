"""What a plan assumes."""

from pydantic import Field, field_validator

from sage_core.config.section import NonNegative, Positive, Section


class ModelSizeConfig(Section):
    """The size of a base model, in the terms of its ``config.json``."""

    layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    heads: Positive
    kv_heads: Positive
    head_size: Positive
    vocabulary: Positive
    experts: Positive = Field(1, description="Experts per layer; 1 = a dense model.")
    active_experts: Positive = Field(1, description="Experts that each token goes through.")
    tied_embeddings: bool = Field(False, description="Input and output share one embedding.")


class GpuConfig(Section):
    """A GPU: dense bfloat16 speed and memory as on its maker's data sheet, and what it costs."""

    name: str = "custom"
    tflops: float = Field(gt=0, description="Dense bfloat16, in TFLOP/s.")
    memory_gb: float = Field(gt=0, description="In units of 10^9 bytes.")
    bandwidth_gb_s: float = Field(gt=0, description="Of its memory, in GB/s.")
    usd_per_hour: float = Field(0.0, ge=0, description="Price of an hour; 0 = not counted.")


# NVIDIA's data sheets (dense, SXM where there is one); prices are the reader's to set.
GPUS = {
    name: GpuConfig(name=name, tflops=tflops, memory_gb=memory, bandwidth_gb_s=bandwidth)
    for name, tflops, memory, bandwidth in (
        ("A100-40GB", 312, 40, 1555),
        ("A100-80GB", 312, 80, 2039),
        ("H100-80GB", 989, 80, 3350),
        ("H200-141GB", 989, 141, 4800),
        ("L4-24GB", 121, 24, 300),
        ("L40S-48GB", 362, 48, 864),
    )
}


class PlanConfig(Section):
    """What `sage plan` assumes where the configuration does not say. Lengths are means in tokens;
    their defaults were measured on the demo (SmolLM2's tokenizer, the packaged dialogues)."""

    gpu: GpuConfig = Field(
        GPUS["H100-80GB"], description=f"One of {', '.join(GPUS)}, or its figures."
    )
    model: ModelSizeConfig | None = Field(
        None, description="The base's size; empty = from its folder or the table of known ones."
    )
    training_utilisation: float = Field(
        0.35, gt=0, le=1, description="Share of the GPU's FLOP/s that training reaches."
    )
    reading_utilisation: float = Field(
        0.5, gt=0, le=1, description="Share of the GPU's FLOP/s that reading prompts reaches."
    )
    writing_utilisation: float = Field(
        0.5, gt=0, le=1, description="Share of the memory's bandwidth that writing reaches."
    )
    dialogues: NonNegative = Field(
        0, description="Dialogues trained on, of all corpora; 0 = max_dialogues of each."
    )
    turns: NonNegative = Field(
        0, description="Turns of a dialogue trained on; 0 = corpus.max_turns, else min_turns."
    )
    search_situations: NonNegative = Field(
        0, description="Situations of the search half; 0 = counted in situations.path."
    )
    evaluation_situations: NonNegative = Field(
        0, description="Situations of the held-out half; 0 = counted in situations.path."
    )
    situation_tokens: Positive = 14
    utterance_tokens: Positive = Field(31, description="Of a human utterance.")
    annotation_tokens: Positive = Field(29, description="Of the annotator's answer, as JSON.")
    state_tokens: Positive = Field(25, description="Of one state, all its fields.")
    m0_reply_tokens: Positive = Field(91, description="Of a reply of m0.")
    raw_reply_tokens: Positive = Field(62, description="Of a reply of raw.")
    reply_tokens: Positive = Field(31, description="Of an utterance of m1 and later.")
    user_tokens: Positive = Field(28, description="Of an utterance of the simulated user.")
    message_tokens: Positive = Field(
        5, description="Special tokens of the chat template around a message; ChatML has 5."
    )
    tokens_per_word: float = Field(
        1.1,
        gt=0,
        description="Of our own prompts, a run of punctuation counted as a word.",
    )

    @field_validator("gpu", mode="before")
    @classmethod
    def _known_gpu(cls, gpu: object) -> object:
        if isinstance(gpu, str):
            if gpu not in GPUS:
                raise ValueError(
                    f"is not a GPU of the table; choose one of {', '.join(GPUS)}, or give its "
                    "tflops, memory_gb and bandwidth_gb_s"
                )
            return GPUS[gpu]
        return gpu
