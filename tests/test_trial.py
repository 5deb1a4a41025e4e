"""The trial of the base model: what a run and the doctor say, and what is refused early."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.small_models import save_small_model
from flows.commands import doctor_checks
from sage_core import trial
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import EngineError
from sage_core.steps import configured
from sage_core.steps.base import Model
from sage_core.steps.base_model import BaseModel
from sage_core.steps.names import TRIAL
from sage_core.storage import ArtifactRef
from tasks import making
from tasks.home import store

PLAIN = {
    "generation": "padded batches by transformers (not all layers have full attention)",
    "training": "padded (layers of conv)",
    "lora": "LoRA on in_proj, k_proj, out_proj, q_proj, v_proj, w1, w2, w3 in 2 of 2 layers",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """Of a small random hybrid, in a home of its own."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    source = tmp_path / "source"
    save_small_model("lfm2", source)
    return PipelineConfig.model_validate({"model": {"base": str(source), "device": "cpu"}})


def tried(config: PipelineConfig) -> ArtifactRef:
    m0 = Model("m0", making.make(BaseModel(model=config.model)))
    return making.make(configured.model_trial(config, m0))


def test_a_trial_says_how_a_model_runs_and_its_manifest_keeps_it(config: PipelineConfig) -> None:
    ref = tried(config)
    assert json.loads((store().folder(ref) / TRIAL).read_text()) == PLAIN
    assert store().manifest(ref)["execution"] == PLAIN
    assert "execution" not in store().manifest(making.make(BaseModel(model=config.model)))


def test_the_doctor_says_it_before_and_after_a_run(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {check.what: (check.ok, check.found) for check in doctor_checks.trial_checks(config)}
    assert before == {what: (True, how) for what, how in PLAIN.items()}
    tried(config)
    monkeypatch.setattr(doctor_checks, "try_model", lambda *_: pytest.fail("tried again"))
    assert {
        check.what: (check.ok, check.found) for check in doctor_checks.trial_checks(config)
    } == before


def test_other_libraries_are_another_trial(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tried(config)
    monkeypatch.setattr(configured, "libraries", lambda: ("torch 9",))
    assert tried(config).path != first.path


def test_a_model_that_cannot_be_used_is_refused_in_seconds(config: PipelineConfig) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(config.model.base) / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][7] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"not finite on plain text; use another model\.base"):
        tried(config)
    assert time.monotonic() - began < 30
    (check,) = doctor_checks.trial_checks(config)
    assert not check.ok
    assert "not finite" in check.found


def test_a_model_that_takes_minutes_to_load_is_not_tried(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_LARGEST", 1000)
    monkeypatch.setattr("sage_core.engines.loading.load_model", lambda *_: pytest.fail("loaded"))
    found = {check.found for check in doctor_checks.trial_checks(config)}
    assert found == {"tested when it is loaded, since that takes minutes", PLAIN["lora"]}
