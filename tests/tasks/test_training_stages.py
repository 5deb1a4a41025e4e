"""The training stages on artefacts, and the tracker's view of what they leave."""

import shutil
from pathlib import Path

import pytest
from training_examples import DIALOGUES, DPO, FLOAT, PAIRS, SFT

from sage_core.config import LoraConfig, TrainingConfig
from sage_core.schema import PreferencePair, TrainingDialogue
from sage_core.storage import ArtifactRef, read_json, write_rows
from tasks import stages
from tasks.home import sage_home, store


def test_rounds_of_artefacts(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    base = store().build(
        "base-model/0", lambda folder: shutil.copytree(tiny_base, folder, dirs_exist_ok=True), {}
    )
    text = store().build(
        "text/0", lambda folder: write_rows(folder / stages.TRAINING, DIALOGUES, TrainingDialogue),
        {},
    )  # fmt: skip
    pairs = store().build(
        "pairs/0", lambda folder: write_rows(folder / stages.PREFERENCES, PAIRS, PreferencePair), {}
    )
    common = {
        "base": base, "lora": LoraConfig(rank=2, chain="stacked"), "seed": 0, "model": FLOAT,
        "training": TrainingConfig(save_steps=1),
    }  # fmt: skip

    def sft(name: str, parent: ArtifactRef | None) -> ArtifactRef:
        return stages.sft.local(
            name, name=name, dialogues=text, parent=parent, settings=SFT, **common
        )

    m1 = sft("m1", None)
    m2 = sft("m2", m1)
    dpo = stages.dpo.local("dpo", pairs=pairs, parent=m2, settings=DPO, **common)
    assert sft("m1", None) == m1  # found, not made again
    models = read_json(store().folder(dpo) / "lineage.json")["models"]
    assert [(each["name"], each.get("sha256")) for each in models] == [
        ("m0", base.sha256), ("m1", m1.sha256), ("m2", m2.sha256), ("dpo", None),
    ]  # fmt: skip
    assert not [path for path in (sage_home() / "work").rglob("*") if path.is_file()]
