"""Estimates against what follows by hand from the configuration."""

import json
from pathlib import Path

import pytest

from sage_core.config.loading import load_config
from sage_core.config.plan import PlanConfig
from sage_core.errors import ConfigError
from sage_core.planning import StagePlan, plan
from sage_core.planning.sizes import MODELS, lora_parameters, parameters, quantised_parameters

MIXTRAL = MODELS["mistralai/Mixtral-8x7B-Instruct-v0.1"]
SMOLLM2 = MODELS["smollm2-135m-instruct"]


LLM = ("search.selector.relevance=false",)


def stages(*overrides: str, preset: str = "demo") -> dict[tuple[str, str], StagePlan]:
    return {(stage.stage, stage.label): stage for stage in plan(load_config(preset, overrides))}


def test_parameters_are_those_of_the_models_cards() -> None:
    """46.7 and 12.9 billion, 135 million; an adapter of rank 8 on q and v of SmolLM2 has
    30 layers x 8 x (576 + 576 + 576 + 192) parameters."""
    assert parameters(MIXTRAL) == pytest.approx(46.7e9, rel=1e-3)
    assert parameters(MIXTRAL, active=True) == pytest.approx(12.9e9, rel=2e-3)
    assert parameters(SMOLLM2) == pytest.approx(134_515_008, rel=1e-3)
    assert lora_parameters(SMOLLM2, 8, ("q_proj", "v_proj")) == 460_800


def test_every_stage_of_the_demo_is_there() -> None:
    found = stages()
    models = ["m0", "raw", "m1", "m2", "m3", "dpo"]
    assert [label for stage, label in found if stage == "rollout-shard"] == models
    assert [label for stage, label in found if stage == "search-shard"] == ["m1", "m2", "m3"]
    assert [label for stage, label in found if stage == "sft"] == ["raw", "m1", "m2", "m3"]
    assert [label for stage, label in found if stage == "judge-pair"] == [
        "m0 m0-m1", "m0 raw-m1", "m0 m1-m2", "m0 m2-m3", "m0 m3-dpo", "m0 m0-dpo",
    ]  # fmt: skip


def test_fewer_situations_can_be_judged_than_are_held_out() -> None:
    found = stages("evaluation.situations=32", "evaluation.judged_situations=12")
    few = stages("evaluation.situations=8", "evaluation.judged_situations=12")
    requests = [each["judge-pair", "m0 m0-m1"].uses[0].requests for each in (found, few)]
    assert requests == [2 * 12, 2 * 8]


def test_measurements_are_planned_for_every_model() -> None:
    """Twelve situations, each read once for the likelihood of its first reply and once with the
    replies to others."""
    found = stages("evaluation.situations=12")
    models = ["m0", "raw", "m1", "m2", "m3", "dpo"]
    assert [label for stage, label in found if stage == "measurements"] == models
    uses = {use.role: use.requests for use in found["measurements", "m1"].uses}
    assert uses == {"m0, likelihood": 12, "m0, matching": 12}
    most = stages("evaluation.situations=32")["measurements", "m1"]
    fewer = stages("evaluation.situations=32", "evaluation.quality.alternatives=3")
    assert fewer["measurements", "m1"].read < most.read


def test_relevance_reads_each_history_once_and_nothing_once() -> None:
    settings = "search.selector.relevance=true", "search.situations=8"
    uses = {use.role: use.requests for use in stages(*settings)["search-shard", "m1"].uses}
    assert uses["selector"] == 8 * 2 * 2


def test_a_prompt_counts_once_for_all_its_candidates() -> None:
    few, many = (
        {use.role: use for use in stages(*LLM, f"search.candidates={n}")["search-shard", "m1"].uses}
        for n in (4, 8)
    )
    assert many["agent"].read == few["agent"].read
    assert many["agent"].written == 2 * few["agent"].written
    assert many["selector"].read > 1.3 * few["selector"].read  # it reads all of them


def test_requests_of_a_search_follow_from_turns_and_situations() -> None:
    """With 4 turns the agent speaks twice and the user once, whose first state is asked for
    apart; the selector is shown each of the agent's turns in 3 orders."""
    found = stages(*LLM, "search.selector.shuffles=3", "search.situations=8")["search-shard", "m1"]
    requests = {use.role: use.requests for use in found.uses}
    assert requests == {"agent": 8 * 2, "user": 8 * 2, "selector": 8 * 2 * 3}


@pytest.mark.parametrize("strategy", ["best_of_n_dialogue", "tree"])
def test_other_strategies_are_played_as_they_are(strategy: str) -> None:
    greedy = stages()["search-shard", "m1"]
    other = stages(f"search.strategy={strategy}")["search-shard", "m1"]
    assert other.read > greedy.read


def test_costs_grow_with_what_they_are_for() -> None:
    once, twice = (
        stages(
            f"corpus.max_dialogues={24 * n}",
            f"sft.epochs={n}",
            f"evaluation.situations={8 * n}",
            "evaluation.judged_situations=0",
        )
        for n in (1, 2)
    )
    assert twice["sft", "m1"].trained == pytest.approx(4 * once["sft", "m1"].trained)
    annotators = [each["annotate-shard", ""].uses[0].read for each in (once, twice)]
    assert annotators[1] == 2 * annotators[0]
    assert twice["rollout-shard", "m0"].written == 2 * once["rollout-shard", "m0"].written
    assert twice["judge-pair", "m0 m0-m1"].read == 2 * once["judge-pair", "m0 m0-m1"].read


def test_scoring_asks_twice_of_each_utterance_and_once_of_each_situation() -> None:
    """The demo has 48 dialogues of 4 turns; 64 embedded situations are in the search half."""
    scored = stages()["annotate-shard", ""]
    requests = {use.role: use.requests for use in scored.uses}
    assert requests == {"annotator": 48 * 4 * 2, "annotator, situations": 64}
    assert scored.written == 0
    own = stages("annotation.calibration=corpus")["annotate-shard", ""]
    assert {use.role for use in own.uses} == {"annotator"}
    written = stages("annotation.method=write")["annotate-shard", ""]
    assert [use.requests for use in written.uses] == [48 * 4]
    assert written.written > 0


def test_training_hours_follow_the_formula() -> None:
    """4 FLOP per token and active parameter, at 35% of 312 TFLOP/s."""
    found = stages("plan.gpu=A100-80GB", preset="paper")["sft", "m1"]
    flop = 4 * found.trained * parameters(MIXTRAL, active=True)
    assert found.gpu_hours == pytest.approx(flop / (312e12 * 0.35) / 3600)
    assert "312 TFLOP/s" in found.formulas["GPU-hours"]


def test_weights_are_spread_over_as_many_gpus_as_they_need() -> None:
    small, large = (
        stages(f"plan.gpu={gpu}", preset="paper")["rollout-shard", "m1"]
        for gpu in ("A100-40GB", "H200-141GB")
    )
    assert small.gpus is not None
    assert large.gpus is not None
    assert small.gpus > large.gpus
    assert small.memory_gb <= 40
    assert large.memory_gb <= 141


def test_gradient_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    """At 4 sequences of 2,048 and 4,096 hidden units; a layer of Mixtral has 34 + 19 x (2 x 14,336
    / 16,384 - 1) bytes per unit."""
    beside_weights = []
    for checkpointing in ("false", "true"):
        found = stages(f"training.gradient_checkpointing={checkpointing}", preset="paper")
        training = found["sft", "m1"]
        assert training.gpus is not None
        weights = 2 * parameters(MIXTRAL) / 1e9 / training.gpus
        beside_weights.append(training.memory_gb - weights)
    units, layer = 4 * 2048 * 4096, 34 + 19 * (2 * 14336 / 16384 - 1)
    saved = units * (32 * layer - 32 * 2 - layer) / 1e9
    assert beside_weights[0] - beside_weights[1] == pytest.approx(saved)


def test_four_bits_are_of_linear_layers() -> None:
    """All of SmolLM2 but its embeddings, a fifth; of Mixtral the attention only, since transformers
    does not hold experts in linear layers."""
    attention = 2 * 4096 * 128 * (32 + 8) * 32
    assert quantised_parameters(MIXTRAL) == attention
    whole, small = (
        stages(f"model.quantization={each}")["sft", "m1"].memory_gb for each in ("none", "4bit")
    )
    linear = parameters(SMOLLM2) - 49152 * 576
    assert whole - small == pytest.approx(linear * (2 - 4.127 / 8) / 1e9)


def test_what_fits_on_no_number_of_gpus_is_said() -> None:
    found = stages("sft.micro_batch_size=32", "plan.gpu=L4-24GB", preset="paper")["sft", "m1"]
    assert found.gpus is None
    assert found.memory_gb > 24


def test_paid_servers_cost_their_price_and_no_gpu() -> None:
    judge = (
        "{name: gpt, engine: {kind: openai, model: gpt, usd_per_million_prompt_tokens: 2, "
        "usd_per_million_completion_tokens: 10}}"
    )
    found = stages(f"evaluation.judges=[{judge}]")["judge-pair", "gpt m0-m1"]
    assert found.api_usd == pytest.approx((2 * found.read + 10 * found.written) / 1e6)
    assert found.gpu_hours == 0


def test_reasoning_is_written_before_each_answer() -> None:
    """Judges read 32 situations in two orders; the demo annotates 48 dialogues of 4 turns."""
    servers = (
        "evaluation.judged_situations=32", "annotation.method=write", "annotation.topics=written",
        "model.max_context=8192",  # room for the prompts beside what may be written
        "annotation.engine={kind: openai, model: r, base_url: 'http://localhost:8000/v1'}",
    )  # fmt: skip
    judge = "name: r, engine: {kind: openai, model: r, base_url: 'http://localhost:8000/v1'}"
    plain = stages(*servers, f"evaluation.judges=[{{{judge}}}]")
    reasoning = stages(
        *servers, f"evaluation.judges=[{{{judge}, reasoning_tokens: 1000}}]",
        "annotation.reasoning_tokens=500",
    )  # fmt: skip
    for stage, requests, tokens in (
        (("judge-pair", "r m0-m1"), 32 * 2, 1000), (("annotate-shard", ""), 48 * 4, 500)
    ):  # fmt: skip
        more = reasoning[stage].written - plain[stage].written
        # A state that is written without a schema is planned a few tokens shorter.
        assert more == pytest.approx(requests * tokens, rel=0.02)
        assert reasoning[stage].read == plain[stage].read
    scored = stages("annotation.reasoning_tokens=500")["annotate-shard", ""]
    assert scored.written == 0


def test_a_price_that_is_not_set_is_not_zero() -> None:
    unpriced = "{name: gpt, engine: {kind: openai, model: gpt}}"
    own = "{name: own, engine: {kind: openai, model: x, base_url: 'http://localhost:8000/v1'}}"
    found = stages(f"evaluation.judges=[{unpriced}, {own}]")
    assert found["judge-pair", "gpt m0-m1"].api_usd is None
    assert "usd_per_million" in found["judge-pair", "gpt m0-m1"].formulas["API, judge gpt"]
    assert found["judge-pair", "own m0-m1"].api_usd == 0


def test_the_size_comes_from_the_folder_of_the_base(tmp_path: Path) -> None:
    facts = {
        "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16,
        "num_attention_heads": 2, "vocab_size": 10,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(facts))
    (base,) = (
        stage for key, stage in stages(f"model.base={tmp_path}").items() if key[0] == "base-model"
    )
    # 2 layers of 4 x 8 x 8 and 3 x 8 x 16, two embeddings of 10 x 8, 2 bytes each.
    assert base.disk_gb * 1e9 == pytest.approx(2 * (2 * (4 * 64 + 3 * 128) + 2 * 80))
    del facts["hidden_size"]
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"'hidden_size'.*plan\.model"):
        stages(f"model.base={tmp_path}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.base=some/model", "plan.model"),
        ("corpus.max_dialogues=0", "plan.dialogues"),
        ("plan.gpu=B52", "H100-80GB"),
    ],
)
def test_what_is_not_known_is_asked_for(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stages(override)


def test_lengths_are_settable() -> None:
    long = stages("plan.reply_tokens=62")["rollout-shard", "m1"]
    assert long.written > stages()["rollout-shard", "m1"].written
    assert PlanConfig().reply_tokens < 62


@pytest.mark.parametrize(
    ("preset", "stage", "kind", "used"),
    [
        ("tiny", ("annotate-shard", ""), "read", 1_622),
        ("tiny", ("grammar-probe", ""), "read", 426),
        ("tiny", ("rollout-shard", "m1"), "read", 430),
    ],
)
def test_the_estimate_is_near_what_a_real_run_used(
    preset: str, stage: tuple[str, str], kind: str, used: float
) -> None:
    """The numbers are of the manifests of real runs of the two presets, those of training the mean
    length of its dialogues under the tokenizer; within 15%."""
    assert getattr(stages(preset=preset)[stage], kind) == pytest.approx(used, rel=0.15)
