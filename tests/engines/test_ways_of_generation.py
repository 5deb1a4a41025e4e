"""The self-test of generation: what it chooses, what it finds, and that all ways write the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.small_models import chatml_tokenizer, save_small_model, small_model
from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.engines import comparing, plain, self_test
from sage_core.engines.base import Request
from sage_core.engines.comparing import difference, in_float32
from sage_core.engines.grammar import sac_grammar
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import release
from sage_core.engines.loading import prepare_base
from sage_core.engines.self_test import Generation, Way, generation
from sage_core.engines.steering import Boost, Force, Steering
from sage_core.errors import EngineError
from sage_core.execution import noting
from sage_core.schema import Message

CONFIG = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=1024)
TEXTS = ("hi", "I waited an hour for the bus again!", "My dog ran away last night. Oh no.")
TOKENIZER = chatml_tokenizer()


@pytest.fixture(autouse=True)
def _tested_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_known", {})


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[TransformersEngine]:
    yield TransformersEngine(tiny_base, None, CONFIG)
    release()


@pytest.mark.parametrize("way", ["batched", "single"])
@pytest.mark.parametrize("asks", ["free", "grammar", "steered"])
def test_all_ways_write_the_same(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, way: Way, asks: str
) -> None:
    """Candidates keep their own streams of random numbers, limits, penalties and states."""
    sampling = SamplingConfig(
        temperature=1.0, top_k=40, repetition_penalty=1.2, max_new_tokens=20, max_state_tokens=30
    )
    boosts = (Boost("agent", "emotion", "sad", 4.0),) if asks == "steered" else ()
    requests = [
        Request(
            f"r/{text}",
            (Message("user", text),),
            sampling,
            n=3,
            constraint=None if asks == "free" else sac_grammar(),
            opens_with_states=asks != "free",
            steering=Steering(boosts=boosts) if boosts else None,
        )
        for text in TEXTS
    ]
    expected = engine.generate(requests)
    monkeypatch.setattr(engine._loaded, "generation", Generation(way))
    assert engine.generate(requests) == expected
    assert len({each.text for row in expected for each in row}) == 9


@pytest.mark.parametrize("model_type", ["lfm2", "deepseek_v3", "recurrent_gemma"])
def test_hybrids_and_latent_attention_write_states_as_forced(
    tmp_path: Path, model_type: str
) -> None:
    """Grammar, forced values and scores by the plain path."""
    base = base_of(model_type, tmp_path)
    engine = TransformersEngine(base, None, CONFIG)
    assert engine._loaded.generation.way != "shared"
    forces = (Force("agent", "emotion", ("playful",)),)
    request = Request(
        "r",
        (Message("user", "hi"),),
        SamplingConfig(temperature=1.0, max_new_tokens=8, max_state_tokens=400),
        n=2,
        constraint=sac_grammar(forces),
        opens_with_states=True,
        steering=Steering(forces=forces),
    )
    (replies,) = engine.generate([request])
    assert all("a_emotion: playful" in each.text for each in replies)
    (scores,) = engine.choose([replace(request, constraint=None, steering=None)], [["A", "B b"]])
    assert all(-100 < score < 0 for score in scores)


def base_of(model_type: str, folder: Path) -> Path:
    save_small_model(model_type, folder / "source")
    base = folder / "base"
    base.mkdir()
    prepare_base(base, CONFIG.model_copy(update={"base": str(folder / "source")}))
    return base


@pytest.mark.parametrize(
    ("model_type", "way", "reason"),
    [
        ("llama", "shared", ""),
        ("gpt_neox", "shared", ""),
        ("falcon", "batched", "takes no other attention"),
        ("diffllama", "batched", "shared prompts change the result"),
        ("stablelm", "batched", "shared prompts fail"),
        ("mistral", "batched", "not all layers have full attention"),
        ("qwen3_next", "batched", "not all layers have full attention"),
        ("minimax", "single", "padded batches change the result"),
    ],
)
def test_each_architecture_generates_in_the_fastest_right_way(
    model_type: str, way: Way, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model(model_type, len(TOKENIZER))
    attention = model.config._attn_implementation
    found = generation(model, TOKENIZER)
    assert (found.way, reason in found.reason) == (way, True), found
    assert model.config._attn_implementation == attention
    warned = [each for each in caplog.records if each.name == comparing.__name__]
    assert bool(warned) is bool(reason)  # logged at load, the fastest way as information only


def test_a_way_that_ignores_something_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small fault: the last key is left out of the attention over a level."""
    model = small_model("llama", len(TOKENIZER))
    levels = self_test.shared_prefix.levels

    def shorter(*arguments: Any) -> Any:
        found = levels(*arguments)
        found[-1].padding[:, -1] = True
        return found

    monkeypatch.setattr(self_test.shared_prefix, "levels", shorter)
    assert generation(model, TOKENIZER).way == "batched"


def test_weights_are_put_back_as_they_were() -> None:
    model = small_model("llama", len(TOKENIZER)).to(torch.bfloat16)
    kept = model.model.layers[0].input_layernorm
    kept.float()  # as models keep some of theirs
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with in_float32(model) as tolerance:
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        assert tolerance == pytest.approx(1e-3)
    assert generation(model, TOKENIZER) == Generation("shared")
    for name, each in model.state_dict().items():
        assert each.dtype == before[name].dtype
        assert torch.equal(each, before[name])


def test_a_model_too_large_for_float32_is_tested_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing, "_LARGEST", 1)
    for model_type, way in (("llama", "shared"), ("diffllama", "batched")):
        model = small_model(model_type, len(TOKENIZER)).to(torch.bfloat16)
        assert generation(model, TOKENIZER).way == way


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = small_model("llama", len(TOKENIZER))
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(EngineError, match=r"LlamaForCausalLM gives logits that are not finite"):
        generation(model, TOKENIZER)


def test_models_of_one_configuration_are_tested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama", len(TOKENIZER))
    assert generation(model, TOKENIZER).way == "shared"
    monkeypatch.setattr(self_test, "_find", lambda *_: pytest.fail("tested again"))
    assert generation(model, TOKENIZER).way == "shared"


def test_differences_are_relative_and_blind_to_a_shift() -> None:
    """A row of norm 5 about its mean, one entry pair of which is off by 0.3 and 0.4: a tenth."""
    expected = torch.tensor([[4.0, -4.0, 3.0, -3.0]]) / 2**0.5
    found = expected + torch.tensor([[0.3, -0.3, 0.4, -0.4]]) / 2**0.5 + 7
    assert difference(found, expected) == pytest.approx(0.1, rel=1e-4)
    assert difference(expected * torch.nan, expected) == float("inf")


def test_defaults_of_the_model_change_no_draw(engine: TransformersEngine) -> None:
    """generate() would take a penalty, a minimal length and the end token from these."""
    model = engine._loaded.model
    given = self_test._Given(torch.tensor([[5, 6, 7]]))
    plain.generate(model, [[1, 2, 3]], given, 3, pad=0)
    own = model.generation_config
    model.generation_config = own.from_dict(
        {"repetition_penalty": 5.0, "min_new_tokens": 3, "eos_token_id": 5, "top_k": 1}
    )
    try:
        again = self_test._Given(torch.tensor([[5, 6, 7]]))
        plain.generate(model, [[1, 2, 3]], again, 3, pad=0)
    finally:
        model.generation_config = own
    torch.testing.assert_close(torch.stack(again.seen), torch.stack(given.seen))
    assert len(given.seen) == 3


def test_what_was_chosen_is_noted(engine: TransformersEngine, tiny_base: Path) -> None:
    with noting() as notes:
        TransformersEngine(tiny_base, None, CONFIG)
    assert notes == {"generation": "shared prompts"}
