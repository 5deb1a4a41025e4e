"""What `make prove` measures, concludes and runs; its simulation on few repeats."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_engine import ScriptedEngine

from benchmarks import preference, properties, prove, prove_simulation
from benchmarks.claims import (
    EQUIVALENCE_CONFIDENCE,
    MARGIN,
    Models,
    Scores,
    claims,
    estimate,
    noise,
)
from benchmarks.preference import Part, ReplyLikelihood, likelihoods
from benchmarks.prove_settings import SEEDS, Half, configs, halved, seeds_of, sets_config
from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Request
from sage_core.errors import DataError
from sage_core.schema import Candidate, PreferencePair, Situation, Trajectory, TrajectoryTurn
from sage_core.search.dialogue import Speaker
from sage_core.storage import read_rows, write_rows

MODEL = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=1024)
MADE = {"parents": {}, "cost": {"seconds": 1.0}}
USER = "{u_motivation: x, u_emotion: y, u_topic: []}"


def text(motivation: str, utterance: str) -> str:
    return f"{USER} {{a_motivation: {motivation}, a_emotion: z, a_topic: []}} {utterance}"


def trajectory(situation: str, *candidates: Candidate) -> Trajectory:
    turns = (
        TrajectoryTurn("user", "I won!", (), states=USER),
        TrajectoryTurn("assistant", candidates[0].text, candidates),
    )
    return Trajectory(f"m1/{situation}", situation, "I won!", "joyful", turns)


def speaker(engine: Any, name: str = "m2") -> Speaker:
    return Speaker(name, engine, states=True, profile=ProfileConfig())


# --- the measure ---------------------------------------------------------------------------------


def test_parts_of_a_reply_are_differences_of_its_starts() -> None:
    """A start's log-probability is minus its length: the value " humor" has 6 characters, the words
    " Why?" have 5."""
    asked: list[Request] = []

    def score(request: Request, option: str) -> float:
        asked.append(request)
        return -float(len(option))

    reply = text("humor", "Why?")
    rows = [trajectory("a", Candidate(reply, 1, True))]
    (row,) = likelihoods(rows, speaker(ScriptedEngine(lambda *_: "", score)), SelfPlayConfig(), 0)
    assert (row.situation_id, row.turn, row.utterance, row.tokens) == ("a", 1, "Why?", 1)
    assert row.log_p == {Part.reply: -len(reply), Part.action: -6, Part.words: -5}
    profile = ProfileConfig()
    assert [message.content for message in asked[0].messages] == [
        profile.ask, f"{profile.states} {profile.consent}", "I won!",
    ]  # fmt: skip


def test_cut_and_malformed_candidates_are_not_measured() -> None:
    rows = [
        trajectory(
            "a",
            Candidate(text("humor", "Why?"), 1, True),
            Candidate(text("humor", "I am cut"), 0, False, cut=True),
            Candidate("{u_motivation: x} Never closed", 0, False),
        )
    ]
    found = likelihoods(rows, speaker(ScriptedEngine(lambda *_: "")), SelfPlayConfig(), 0)
    assert [row.utterance for row in found] == ["Why?"]


def likelihood(
    utterance: str, tokens: int, log_p: float, situation: str = "a", turn: int = 1
) -> ReplyLikelihood:
    parts = {Part.reply: log_p, Part.action: log_p / 10, Part.words: log_p / 2}
    return ReplyLikelihood(situation, turn, utterance, tokens, parts)


def test_replies_are_paired_by_length() -> None:
    """10 with 11 and 20 with 20; the statement of 40 tokens is left over."""
    rows = [
        likelihood("Long?", 20, -20),
        likelihood("Short?", 10, -8),
        likelihood("Longest.", 40, -100),
        likelihood("Short.", 11, -11),
        likelihood("Long.", 20, -25),
    ]
    found = preference.preference(rows, properties.question)
    assert (found.pairs, found.longer) == (2, -0.5)
    assert found.by_part[Part.reply]["a"] == pytest.approx((3 + 5) / 2)
    assert found.by_part[Part.action]["a"] == pytest.approx(0.4)


def test_pairs_are_of_one_set_and_situations_of_one_kind_have_none() -> None:
    rows = [
        likelihood("Why?", 2, -1, turn=1),
        likelihood("So.", 2, -2, turn=3),
        likelihood("Why?", 2, -1, situation="b"),
        likelihood("So.", 2, -2, situation="b"),
    ]
    found = preference.preference(rows, properties.question)
    assert (found.by_part[Part.reply], found.unpaired) == ({"b": 1.0}, 1)
    nothing = preference.preference(rows[:2], properties.question)
    assert nothing.unpaired == 1
    assert (nothing.pairs, nothing.by_part[Part.reply]) == (0, {})


def test_parts_are_those_of_a_plain_forward_pass(tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sage_core.engines.in_process import TransformersEngine

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    texts = [text("curiosity", "Was it?"), text("humor", "I see. It was.")]
    rows = [trajectory("a", *(Candidate(each, 0, False) for each in texts))]
    engine = TransformersEngine(tiny_base, None, MODEL)
    found = likelihoods(rows, speaker(engine), SelfPlayConfig(), 0)

    profile = ProfileConfig()
    prompt = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": profile.ask},
            {"role": "assistant", "content": f"{profile.states} {profile.consent}"},
            {"role": "user", "content": "I won!"},
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_base)

    def log_p(reply: str) -> float:
        before, ids = (
            tokenizer.encode(each, add_special_tokens=False) for each in (prompt, prompt + reply)
        )
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        places = range(len(before), len(ids))
        return sum(float(logits[place - 1, ids[place]]) for place in places)

    for row, reply in zip(found, texts, strict=True):
        states, group = reply[: -len(row.utterance) - 1], "{a_motivation:"
        value = reply.index(group) + len(group)
        expected = {
            Part.reply: log_p(reply),
            Part.action: log_p(reply[: reply.index(", a_emotion")]) - log_p(reply[:value]),
            Part.words: log_p(reply) - log_p(states),
        }
        assert row.log_p == pytest.approx(expected, abs=0.01)
        assert row.tokens == len(tokenizer.encode(row.utterance, add_special_tokens=False))


# --- the interval --------------------------------------------------------------------------------


def test_the_interval_by_hand() -> None:
    """Seeds at 0 and 2, two situations alike: MS(seeds) = 2 * var(0, 2) = 4, MS(situations) = 0, so
    the error is sqrt(4 / 4) = 1 at one degree of freedom, whose t is 12.706."""
    found = estimate(np.array([[0.0, 0.0], [2.0, 2.0]]))
    assert found == pytest.approx((1.0, 1 - 12.7062, 1 + 12.7062), abs=1e-3)


def test_a_difference_that_never_varies_has_no_width() -> None:
    assert estimate(np.full((3, 5), 0.25)) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("situation", "seed", "rest"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.5, 0.2, 0.4)]
)
def test_the_interval_covers_whatever_varies(situation: float, seed: float, rest: float) -> None:
    """A false claim above zero holds in 2.5% of repeats at most (1,000: 2.5% +- 1.5%)."""
    rng = np.random.default_rng(1)
    draws = [
        rng.normal(0, situation, (1, 16))
        + rng.normal(0, seed, (4, 1))
        + rng.normal(0, rest, (4, 16))
        for _ in range(1000)
    ]
    assert np.mean([estimate(draw).low > 0 for draw in draws]) < 0.04


def test_what_varies_is_found_again() -> None:
    """A table of 200 x 300, in which each standard deviation is known within some percent."""
    rng = np.random.default_rng(2)
    table = rng.normal(0, 0.5, (1, 300)) + rng.normal(0, 0.2, (200, 1))
    found = noise(table + rng.normal(0, 0.4, (200, 300)) + 7)
    assert found == pytest.approx((0.5, 0.2, 0.4), rel=0.1)
    assert noise(np.full((3, 4), 2.0)) == (0, 0, 0)


# --- the claims ----------------------------------------------------------------------------------

HELD = {"m1": 0, "m2": 1, "m3": 2, "dpo": 3, "dpo swapped": 1, "m2 turned around": -1,
        "m2 at random": 0}  # fmt: skip
WHAT = [
    "m2 over m1",
    "m3 over m2: the second round adds",
    "dpo over m3: preference learning adds",
    "dpo with its pairs swapped, below m3",
    "m2 with the selector turned around, below m1",
    "m2 selected at random, like m1",
    "m3 over m1, in the words alone",
    "m3 over m1, in a_motivation alone",
]


def models(levels: Mapping[str, float], still: tuple[Part, ...] = ()) -> Models:
    """Models at those levels, with noise of a tenth; ``still``: parts in which none moved."""
    rng = np.random.default_rng(0)

    def around(level: float) -> Scores:
        return level + rng.normal(0, 0.1, (4, 16))

    return {
        name: {part: around(0 if part in still else level) for part in Part}
        for name, level in levels.items()
    }


def test_all_claims_hold_where_the_planted_property_spreads() -> None:
    found = claims(models(HELD))
    assert [(claim.what, claim.met) for claim in found] == [(what, True) for what in WHAT]


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"m2": 0}, [0, 5]),
        ({"m3": 1}, [1, 3]),  # dpo swapped is at 1 as well
        ({"dpo": 2}, [2]),
        ({"dpo": 1, "dpo swapped": 3}, [2, 3]),
        ({"dpo swapped": 2}, [3]),
        ({"m2 turned around": 0}, [4]),
        ({"m2 at random": MARGIN}, [5]),
        ({"m2 at random": -MARGIN}, [5]),
    ],
)
def test_a_claim_that_does_not_hold_is_missed(change: dict[str, float], missed: list[int]) -> None:
    found = claims(models({**HELD, **change}))
    assert [number for number, claim in enumerate(found) if not claim.met] == missed


@pytest.mark.parametrize(("part", "missed"), [(Part.words, 6), (Part.action, 7)])
def test_each_part_has_to_move(part: Part, missed: int) -> None:
    found = claims(models(HELD, still=(part,)))
    assert [number for number, claim in enumerate(found) if not claim.met] == [missed]


def test_models_that_did_not_change_meet_no_claim() -> None:
    same = {part: np.ones((4, 16)) for part in Part}
    assert not any(claim.met for claim in claims(dict.fromkeys(HELD, same)))


def test_a_wide_interval_is_not_equivalence() -> None:
    """The mean of chance is 0, but its interval is wider than the margin."""
    found = dict(models(HELD))
    wide = np.random.default_rng(0).normal(0, 3, (4, 16))
    found["m2 at random"] = {part: wide - wide.mean() for part in Part}
    claim = claims(found)[5]
    assert claim.difference.value == pytest.approx(0, abs=0.05)
    assert claim.difference == estimate(
        found["m2 at random"][Part.reply] - found["m1"][Part.reply], EQUIVALENCE_CONFIDENCE
    )
    assert not claim.met


# --- the simulation ------------------------------------------------------------------------------


def test_each_claim_is_false_in_some_simulated_world() -> None:
    worlds = prove_simulation.worlds()
    assert set.union(*(set(world.false) for world in worlds)) == set(range(len(WHAT)))
    assert len({world.name for world in worlds}) == len(worlds)


@pytest.mark.parametrize("world", prove_simulation.worlds(), ids=lambda world: world.name)
def test_false_claims_fail_and_true_ones_hold(world: prove_simulation.World) -> None:
    """300 repeats: 5% has a standard error of 1.3 points, 80% one of 2.3."""
    rates = prove_simulation.pass_rates(world, repeats=300)
    assert max((rates[number] for number in world.false), default=0) <= 0.09
    if not world.false:
        assert rates.min() >= 0.75


# --- what is run ---------------------------------------------------------------------------------


def test_the_arms_differ_in_the_selector_only() -> None:
    arms = configs()
    selectors = {name: config.search.selector for name, config in arms.items()}
    assert selectors["planted"].function == "benchmarks.properties:question"
    assert selectors["turned around"].function == "benchmarks.properties:no_question"
    assert selectors["at random"].random
    same = selectors["planted"]
    others = {
        config.model_copy(
            update={"search": config.search.model_copy(update={"selector": same})}
        ).model_dump_json()
        for config in arms.values()
    }
    assert len(others) == 1
    assert sets_config().search.selfplay.sampling == arms["planted"].search.selfplay.sampling


def test_the_property_can_be_turned_around() -> None:
    replies = ["Why?", "I see.", "", "Really? Yes.", "And then? "]
    assert [properties.question(reply) for reply in replies] == [1, 0, 0, 0, 1]
    assert all(properties.question(each) + properties.no_question(each) == 1 for each in replies)


def test_halves_are_disjoint_equal_and_depend_on_ids_only() -> None:
    rows = [Situation(f"s{n}", "I won!", "joyful", "evaluation") for n in range(32)]
    halves = halved(rows)
    assert [len(halves[half]) for half in Half] == [16, 16]
    assert sorted(halves[Half.tune] + halves[Half.test], key=rows.index) == rows
    turned = halved(rows[::-1])
    assert turned == {half: each[::-1] for half, each in halves.items()}
    assert halves[Half.tune] != rows[:16]


def test_settings_are_chosen_with_other_seeds() -> None:
    seeds = [seed for half in Half for seed in seeds_of(half)]
    assert len(set(seeds)) == 2 * SEEDS >= 6
    assert 0 not in seeds  # m1's


def test_a_swapped_pair_prefers_the_other_reply() -> None:
    from benchmarks.prove_steps import swapped

    pair = PreferencePair((), "Why?", "So", 2, chosen_cut=False, rejected_cut=True)
    assert swapped(pair) == PreferencePair((), "So", "Why?", 2, chosen_cut=True, rejected_cut=False)
    assert swapped(swapped(pair)) == pair


def found(*levels: float) -> preference.Preference:
    by_situation = {f"s{n}": level for n, level in enumerate(levels)}
    return preference.Preference(dict.fromkeys(Part, by_situation), len(levels), 0, 0.0)


def test_scores_are_by_seed_and_situation() -> None:
    models, kept = prove.scores(
        {"m1": [found(1, 2)] * 3, "m2": [found(2, 4), found(3, 5), found(4, 6)]}
    )
    assert kept == ["s0", "s1"]
    assert models["m2"][Part.reply].tolist() == [[2, 4], [3, 5], [4, 6]]
    assert models["m1"][Part.words].shape == (3, 2)
    assert "reply: 0.71, 1.00 and 0.00;" in prove.note(Half.tune, found(1, 2), models, 3.0)
    with pytest.raises(DataError, match="raise the candidates"):
        prove.scores({"m1": [found(1)] * 3})


def test_the_stages_from_situations_to_scores(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models of random weights, by cached stages; m2 is another model than m1, so it answers
    otherwise, to the same replies."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from benchmarks import prove_flow, prove_steps
    from sage_core.steps.base import Model
    from sage_core.steps.names import PREFERENCES, SITUATIONS, TRAJECTORIES
    from tasks.home import store
    from tasks.making import make

    base = store().build(
        "base-model/0", lambda folder: shutil.copytree(tiny_base, folder, dirs_exist_ok=True), MADE
    )
    adapters = {}
    for number, name in enumerate(("m1", "m2")):
        torch.manual_seed(number)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_base),
            LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
        )

        def save(folder: Path, adapted: Any = adapted) -> None:
            adapted.save_pretrained(folder, save_embedding_layers=False)

        adapters[name] = store().build(f"sft/{name}", save, MADE)
    rows = [Situation(f"s{n}", "I won!", "joyful", "evaluation") for n in range(4)]
    opened = store().build(
        "situations/0",
        lambda folder: write_rows(folder / SITUATIONS, rows, Situation),
        MADE,
    )
    half = make(prove_steps.HeldOutHalf(situations=opened, half="test"))
    kept = read_rows(store().folder(half) / SITUATIONS, Situation)
    assert kept == halved(rows)[Half.test]
    drawn = [
        trajectory(
            each.situation_id,
            Candidate(text("curiosity", "Was it?"), 1, True),
            Candidate(text("humor", "It was."), 0, False),
        )
        for each in kept
    ]
    sets = store().build(
        "searched/0",
        lambda folder: write_rows(folder / TRAJECTORIES, drawn, Trajectory),
        MADE,
    )
    measured = {
        name: make(
            prove_steps.Likelihoods(
                agent=Model(name, base, adapter), sets=sets, selfplay=SelfPlayConfig(),
                profile=ProfileConfig(), model=MODEL,
            )
        )
        for name, adapter in adapters.items()
    }  # fmt: skip
    found = {name: [prove_flow.read_preference(ref)] * 2 for name, ref in measured.items()}
    models, names = prove.scores(found)
    assert names == [each.situation_id for each in kept]
    assert models["m1"][Part.reply].shape == (2, 2)
    for part in Part:
        assert (abs(models["m1"][part] - models["m2"][part]) > 1e-3).all()
    took = prove_flow.seconds(measured.values())
    assert took > 4  # m0, m1, m2 and the sets took a second each
    assert prove_flow.seconds([*measured.values(), *measured.values()]) == took

    pairs = [PreferencePair((), "Why?", "So", 2)]
    ref = store().build(
        "preferences/0",
        lambda folder: write_rows(folder / PREFERENCES, pairs, PreferencePair),
        MADE,
    )
    turned = store().folder(make(prove_steps.SwappedPairs(pairs=ref))) / PREFERENCES
    assert read_rows(turned, PreferencePair) == [prove_steps.swapped(pairs[0])]


@pytest.mark.parametrize("pairs_from", ["rounds", "last"])
def test_each_model_is_trained_from_the_one_that_it_is_compared_with(
    pairs_from: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are recorded as text: what they were trained from, on what, with which seed."""
    from benchmarks import prove_flow

    def search(config: Any, agent: Any, user: Any, openings: Any) -> Any:
        selector = config.search.selector.function.partition(":")[2] or "random"
        assert user == "m1"
        return f"{selector} by {agent}, seed {config.seed}"

    def refine(config: Any, last: Any, name: str, *arguments: Any) -> Any:
        searched = search(config, last, *arguments)
        return searched, "text", f"<{name} of {last} on {searched}>"

    def prefer(config: Any, searched: Any, parent: Any) -> Any:
        pairs = f"pairs of {searched}"
        return pairs, prefer_chosen(config, pairs, parent)

    def prefer_chosen(config: Any, pairs: Any, parent: Any, label: str = "") -> Any:
        return f"dpo of {parent} on {pairs}, seed {config.seed}"

    monkeypatch.setattr(prove_flow, "search", search)
    monkeypatch.setattr(prove_flow, "refine", refine)
    monkeypatch.setattr(prove_flow, "prefer", prefer)
    monkeypatch.setattr(prove_flow, "prefer_chosen", prefer_chosen)
    monkeypatch.setattr(prove_flow, "make", lambda step: f"swapped {step.pairs}")
    arms = {
        arm: config.model_copy(update={"seed": 7})
        for arm, config in configs((f"dpo.pairs_from={pairs_from}",)).items()
    }
    made: Any = prove_flow.one_seed(arms, "m1", "openings")  # type: ignore[arg-type]
    first = "question by m1, seed 7"
    m2 = f"<m2 of m1 on {first}>"
    second = f"question by {m2}, seed 7"
    m3 = f"<m3 of {m2} on {second}>"
    last = [f"question by {m3}, seed 7"]
    pairs = f"pairs of {last if pairs_from == 'last' else [first, second]}"
    assert made == {
        "m2": m2,
        "m3": m3,
        "dpo": f"dpo of {m3} on {pairs}, seed 7",
        "dpo swapped": f"dpo of {m3} on swapped {pairs}, seed 7",
        "m2 turned around": "<m2 of m1 on no_question by m1, seed 7>",
        "m2 at random": "<m2 of m1 on random by m1, seed 7>",
    }
    assert set(made) | {"m1"} == set(HELD) == set(prove_simulation.PARENTS) | {"m1"}
