"""`model.attention`: what a model has, what this machine has, and what is chosen by default."""

from pathlib import Path

import pytest

from benchmarks.small_models import save_small_model
from sage_core import preflight
from sage_core.config.loading import load_config
from sage_core.config.model import ModelConfig
from sage_core.engines.loading import attention_of, check_attention, load_model, prepare_base
from sage_core.errors import ConfigError

CPU = ModelConfig(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder of a model that PyTorch's attention cannot compute."""
    folder = tmp_path_factory.mktemp("gemma2")
    save_small_model("gemma2", folder / "source")
    (folder / "base").mkdir()
    prepare_base(folder / "base", CPU.model_copy(update={"base": str(folder / "source")}))
    return folder / "base"


@pytest.mark.parametrize("wanted", ["eager", "sdpa"])
def test_a_model_is_loaded_with_the_attention_that_is_set(tiny_base: Path, wanted: str) -> None:
    config = CPU.model_copy(update={"attention": wanted})
    assert load_model(tiny_base, config).config._attn_implementation == wanted


def test_by_default_it_is_pytorchs_where_the_model_has_it(tiny_base: Path, gemma2: Path) -> None:
    assert load_model(tiny_base, CPU).config._attn_implementation == "sdpa"
    assert load_model(gemma2, CPU).config._attn_implementation == "eager"


def test_one_that_a_model_lacks_is_refused_with_our_setting(gemma2: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_model(gemma2, CPU.model_copy(update={"attention": "sdpa"}))
    message = str(refused.value)
    assert message.startswith("model.attention = 'sdpa' is not possible for Gemma2ForCausalLM (")
    assert message.endswith("; set model.attention=auto")


def test_flash_attention_needs_a_gpu_and_its_package(tiny_base: Path) -> None:
    from flows.commands.doctor_checks import training_checks

    wanted = ["model.attention=flash_attention_2", "model.device=cpu", "model.dtype=float32"]
    config = load_config("tiny", wanted)
    words = (
        r"model\.attention = 'flash_attention_2' needs a GPU \(model\.device = 'cpu'\) and "
        r"model\.dtype=bfloat16 and the package flash-attn; or set model\.attention=auto"
    )
    with pytest.raises(ConfigError, match=words):
        preflight.check(config)
    with pytest.raises(ConfigError, match=words):
        load_model(tiny_base, config.model)
    with pytest.raises(ConfigError, match="package flash-attn-3; or"):
        check_attention(config.model.model_copy(update={"attention": "flash_attention_3"}))
    (check,) = training_checks(config)
    assert (check.what, check.ok) == ("attention flash_attention_2", False)
    assert config.experimental() == ["model.attention=flash_attention_2"]
    assert attention_of(str(tiny_base), config.model.model_copy(update={"attention": "auto"}))
