"""The training stages on artefacts, and the tracker's view of what they leave."""

import shutil
from pathlib import Path

import pytest
from training_examples import DIALOGUES, DPO, FLOAT, PAIRS, SFT

from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.schema import PreferencePair, TrainingDialogue
from sage_core.steps.base import Model
from sage_core.steps.dpo import Dpo
from sage_core.steps.names import PREFERENCES, TRAINING
from sage_core.steps.sft import Sft
from sage_core.storage import ArtifactRef, read_json, write_rows
from tasks.home import sage_home, store
from tasks.making import make


def test_rounds_of_artefacts(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    base = store().build(
        "base-model/0", lambda folder: shutil.copytree(tiny_base, folder, dirs_exist_ok=True), {}
    )
    text = store().build(
        "text/0", lambda folder: write_rows(folder / TRAINING, DIALOGUES, TrainingDialogue),
        {},
    )  # fmt: skip
    pairs = store().build(
        "pairs/0", lambda folder: write_rows(folder / PREFERENCES, PAIRS, PreferencePair), {}
    )
    lora, training = LoraConfig(rank=2, chain="stacked"), TrainingConfig(save_steps=1)

    def sft(name: str, parent: Model) -> ArtifactRef:
        step = Sft(
            checkpoint=name, dialogues=text, parent=parent, settings=SFT, lora=lora,
            training=training, model=FLOAT, seed=0,
        )  # fmt: skip
        return make(step, name)

    m0 = Model("m0", base)
    m1 = sft("m1", m0)
    m2 = sft("m2", Model("m1", base, m1))
    dpo = make(
        Dpo(
            pairs=pairs, parent=Model("m2", base, m2), settings=DPO, lora=lora, training=training,
            model=FLOAT, seed=0,
        )
    )  # fmt: skip
    assert sft("m1", m0) == m1  # found, not made again
    models = read_json(store().folder(dpo) / "lineage.json")["models"]
    assert [(each["name"], each.get("sha256")) for each in models] == [
        ("m0", base.sha256), ("m1", m1.sha256), ("m2", m2.sha256), ("dpo", None),
    ]  # fmt: skip
    for made in (m1, m2, dpo):
        assert store().manifest(made)["execution"] == {
            "lora": "LoRA on q_proj, v_proj in 2 of 2 layers",
            "training": "packed",
        }
    assert not [path for path in (sage_home() / "work").rglob("*") if path.is_file()]
