"""The transformers engine on a tiny random model, against transformers' own results.

Weights are float32, so that sums in another order change no token.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from in_process_results import (
    CONFIG,
    SINGLE,
    SYSTEM,
    TEXTS,
    asked,
    greedy,
    log_probability,
    plain_model,
    prompt_ids,
    sampling,
)

from sage_core.config.engine import SamplingConfig
from sage_core.engines import in_process, plain
from sage_core.engines.base import Constraint, Request
from sage_core.engines.drawing import Rows, draw
from sage_core.engines.grammar import json_schema, one_of, sac_grammar
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import LoadedModel, loaded_model, release
from sage_core.engines.self_test import Generation, Way
from sage_core.errors import EngineError
from sage_core.sac import is_well_formed


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[TransformersEngine]:
    yield TransformersEngine(tiny_base, None, CONFIG)
    release()


@pytest.fixture
def loaded(engine: TransformersEngine, tiny_base: Path) -> LoadedModel:
    """The model that the engine uses."""
    return loaded_model(tiny_base, CONFIG)


@pytest.fixture(scope="module")
def reference(tiny_base: Path) -> Any:
    return plain_model(tiny_base)


@pytest.mark.parametrize("system", ["", SYSTEM], ids=["no common start", "long common start"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_replies_are_those_of_transformers(
    engine: TransformersEngine,
    reference: Any,
    chatml_tokenizer: Any,
    system: str,
    n: int,
    penalty: float,
) -> None:
    """Prompts of five lengths in one batch; with a long system message the batch reads the
    prompts' common start once."""
    how = sampling(repetition_penalty=penalty)
    requests = [asked(text, system=system, how=how, n=n) for text in TEXTS]
    expected = [greedy(reference, chatml_tokenizer, request) for request in requests]
    assert engine.generate(requests) == [[completion] * n for completion in expected]
    # The cases are worth their name: lengths differ, and replies do.
    assert len({len(prompt_ids(chatml_tokenizer, request)) for request in requests}) == len(TEXTS)
    assert len({completion.text for completion in expected}) > 1


def test_some_replies_end_before_others(engine: TransformersEngine) -> None:
    """Finished rows leave the batch while others go on, which the comparisons here rely on."""
    how = sampling(temperature=1)
    answers = engine.generate([asked(f"text {number}", how=how, n=2) for number in range(12)])
    ends = [max(c.completion_tokens for c in row) for row in answers]
    stopped = [all(c.finish_reason == "stop" for c in row) for row in answers]
    assert sum(stopped) >= 3
    assert min(ends) < 24 < max(ends)


@pytest.mark.parametrize("system", ["", SYSTEM], ids=["no common start", "long common start"])
@pytest.mark.parametrize("constraint", [None, sac_grammar()], ids=["free", "grammar"])
def test_a_reply_does_not_depend_on_what_is_asked_beside_it(
    engine: TransformersEngine, system: str, constraint: Constraint | None
) -> None:
    how = sampling(temperature=1.0, top_k=40, repetition_penalty=1.2)
    requests = [
        asked(f"{text} {number}", system=system, how=how, n=3, seed=4, constraint=constraint,
              opens_with_states=True)
        for number, text in enumerate(TEXTS)
    ]  # fmt: skip
    together = engine.generate(requests)
    assert [engine.generate([request])[0] for request in requests] == together
    assert engine.generate(requests[::-1]) == together[::-1]
    # Beside requests of other kinds, too.
    others = [asked("other", n=2), asked("more", how=how, n=1)]
    assert engine.generate([others[0], *requests, others[1]])[1:-1] == together


def test_small_batches_give_the_same_replies(tiny_base: Path, engine: TransformersEngine) -> None:
    how = sampling(temperature=1.0)
    requests = [asked(f"{text} {n}", how=how, n=2) for n, text in enumerate(TEXTS)]
    together = engine.generate(requests)
    for limit in ({"batch_size": 1}, {"batch_size": 5}, {"prefill_tokens": 30}):
        small = TransformersEngine(tiny_base, None, CONFIG)
        small.config = CONFIG.model_copy(update=limit)
        assert small.generate(requests) == together


def test_draws_depend_on_seed_name_and_candidate_only(engine: TransformersEngine) -> None:
    how = sampling(temperature=1.0)
    (first,) = engine.generate([asked("hi", how=how, n=6, seed=1)])
    assert engine.generate([asked("hi", how=how, n=6, seed=1)]) == [first]
    assert len({completion.text for completion in first}) == 6
    # The first candidates are the same however many are asked for.
    assert engine.generate([asked("hi", how=how, n=2, seed=1)]) == [first[:2]]
    (other_seed,) = engine.generate([asked("hi", how=how, n=6, seed=2)])
    assert not set(other_seed) & set(first)
    renamed = Request("renamed", asked("hi").messages, how, n=6, seed=1)
    assert not set(engine.generate([renamed])[0]) & set(first)


def test_draws_follow_the_distribution() -> None:
    """4,000 draws at even steps over [0, 1): the counts are the probabilities to within one."""
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniforms = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    logits = probabilities.log().repeat(4000, 1)

    def counts(how: SamplingConfig) -> list[int]:
        drawn: list[int] = draw(logits.clone(), how, uniforms).bincount(minlength=4).tolist()
        return drawn

    assert counts(sampling(temperature=1)) == pytest.approx([2000, 0, 1200, 800], abs=1)
    # The two most likely: 0.5 and 0.3 of 0.8.
    assert counts(sampling(temperature=1, top_k=2)) == pytest.approx([2500, 0, 1500, 0], abs=1)
    # Half the temperature squares them: 0.25, 0.09, 0.04 of 0.38.
    assert counts(sampling(temperature=0.5)) == pytest.approx([2632, 0, 947, 421], abs=1)
    assert counts(sampling(temperature=0)) == [4000, 0, 0, 0]


def test_a_uniform_of_almost_one_draws_no_impossible_token() -> None:
    """The tokens' probabilities may add up to a little more or less than one."""
    for logits in ([0.0, 0.0, -torch.inf], [0.3, 0.1, 0.2, 1.7, 0.9, -torch.inf, -torch.inf]):
        for uniform in (0.0, 1 - 2**-53):
            drawn = draw(
                torch.tensor([logits]),
                sampling(temperature=1),
                torch.tensor([uniform], dtype=torch.float64),
            )
            assert logits[drawn.item()] > -torch.inf


MULTI = ["A", "My dog ran", "I waited", "zebra crossing", "My dog"]


@pytest.mark.parametrize("system", ["", SYSTEM], ids=["no common start", "long common start"])
@pytest.mark.parametrize(
    "options",
    [[SINGLE] * 5, [MULTI] * 5, [SINGLE, MULTI, SINGLE[:1], MULTI[:2], MULTI[1:2]]],
    ids=["single tokens", "several tokens", "mixed"],
)
def test_options_have_the_probabilities_of_a_plain_pass(
    engine: TransformersEngine,
    reference: Any,
    chatml_tokenizer: Any,
    system: str,
    options: list[list[str]],
) -> None:
    requests = [asked(text, system=system) for text in TEXTS]
    scores = engine.choose(requests, options)
    for request, choices, row in zip(requests, options, scores, strict=True):
        expected = [
            log_probability(reference, chatml_tokenizer, request, option) for option in choices
        ]
        assert row == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("most", [1, 20, 64])
@pytest.mark.parametrize("way", ["shared", "batched", "single"])
def test_many_options_are_scored_in_parts(
    engine: TransformersEngine,
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    way: Way,
) -> None:
    """Whatever is read together, and in whatever way; tokens of options count as read."""
    options = ["A", *TEXTS[:4], "Oh no, what happened then? " * 3, "B", "my dog"]
    request = asked("hi", system=SYSTEM)
    before = engine.usage.prompt_tokens
    expected = engine.choose([request], [options])
    prompt = loaded.prompts.fit(request)[0]
    scored = sum(engine.token_counts(options)) - len(options)
    assert engine.usage.prompt_tokens - before == len(prompt) + scored
    monkeypatch.setattr(in_process, "_OPTION_TOKENS", most)
    monkeypatch.setattr(plain, "_SCORED_TOGETHER", 3 * most)
    monkeypatch.setattr(loaded, "generation", Generation(way))
    assert engine.choose([request], [options])[0] == pytest.approx(expected[0], abs=1e-3)


@pytest.mark.parametrize("together", [1, 7, 10_000])
def test_options_are_scored_alike_however_many_are_read_together(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    requests = [asked(text, system=SYSTEM) for text in TEXTS]
    options = [[*MULTI, "An", "An ox is", "zz top zz"][: 3 + n] for n in range(len(TEXTS))]
    alone = [engine.choose([r], [o])[0] for r, o in zip(requests, options, strict=True)]
    monkeypatch.setattr(in_process, "_OPTION_TOKENS", together)
    for row, expected in zip(engine.choose(requests, options), alone, strict=True):
        assert row == pytest.approx(expected, abs=1e-3)


def test_prompts_are_read_together_whatever_their_options(
    engine: TransformersEngine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded.model
    passes: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    engine.choose([asked(text) for text in TEXTS], [MULTI] * len(TEXTS))
    assert len(passes) == 2  # the prompts, and their options


def test_an_empty_option_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError, match="an option is empty"):
        engine.choose([asked("hi")], [["A", ""]])


VALUE = r"[A-Za-z0-9][A-Za-z0-9'-]{0,23}( [A-Za-z0-9][A-Za-z0-9'-]{0,23}){0,2}"
TOPICS = rf"({VALUE}(, {VALUE}){{0,2}})?"
CHAIN = regex.compile(
    "".join(
        rf"\{{{role}_motivation: {VALUE}, {role}_emotion: {VALUE}, {role}_topic: \[{TOPICS}\]\}} "
        for role in "ua"
    )
    + r"[^ \t\r\n\0][^\0]*"
)


def test_under_the_grammar_every_reply_is_a_chain_or_the_start_of_one(
    engine: TransformersEngine,
) -> None:
    how = sampling(temperature=1.0, max_new_tokens=200, max_state_tokens=600)
    requests = [
        asked(text, how=how, n=8, constraint=sac_grammar(), opens_with_states=True)
        for text in TEXTS
    ]
    completions = [completion for row in engine.generate(requests) for completion in row]
    stopped = [c.text for c in completions if c.finish_reason == "stop"]
    assert len(stopped) >= 20
    for text in stopped:
        assert is_well_formed(text), text
        assert CHAIN.fullmatch(text), text
    for completion in completions:
        assert CHAIN.fullmatch(completion.text, partial=True), completion.text
    # Without it, such a model writes no chain.
    free = engine.generate([asked(text, how=how, n=8) for text in TEXTS])
    assert not any(is_well_formed(c.text) for row in free for c in row)


def test_a_reply_cut_inside_its_states_is_their_start(engine: TransformersEngine) -> None:
    how = sampling(temperature=1.0, max_new_tokens=20)
    (row,) = engine.generate([asked("hi", how=how, n=8, constraint=sac_grammar())])
    assert {completion.finish_reason for completion in row} == {"length"}
    assert all(CHAIN.fullmatch(c.text, partial=True) and c.text for c in row)


def test_other_constraints(engine: TransformersEngine) -> None:
    options = ["Verdict: A", "Verdict: B", 'say "tie"']
    how = sampling(temperature=1.0)
    (row,) = engine.generate([asked("hi", how=how, n=16, constraint=one_of(options))])
    assert {completion.text for completion in row} <= set(options)
    assert {completion.finish_reason for completion in row} == {"stop"}
    assert len({completion.text for completion in row}) > 1
    schema = json_schema({"mood": {"type": "string", "enum": ["sad", "glad"]}})
    (row,) = engine.generate([asked("hi", how=how, n=4, constraint=schema)])
    assert all(json.loads(completion.text)["mood"] in ("sad", "glad") for completion in row)
    with pytest.raises(EngineError, match="the grammar cannot be compiled"):
        engine.generate([asked("hi", constraint=Constraint("grammar", "root ::= nothing"))])


@pytest.mark.parametrize("penalise_states", [True, False])
def test_the_penalty_spares_the_states(
    tiny_base: Path, engine: TransformersEngine, penalise_states: bool
) -> None:
    """Row 0 and 1 of one request. A token of the prompt leads by 5%; a penalty of 1.5 takes it
    back, but not inside the two state groups, which end with the second closing brace."""
    loaded = loaded_model(tiny_base, CONFIG)
    encode = loaded.tokenizer.encode
    (old,), (opens,), (brace,), (new,) = (encode(each, add_special_tokens=False) for each in "Q{}Z")
    how = sampling(repetition_penalty=1.5, penalise_states=penalise_states)
    request = asked("hi", how=how, n=2, opens_with_states=True)
    rows = Rows(loaded, [request], [[old, old]])

    def drawn(step: int, *leading: int) -> list[int]:
        """Draw with ``leading`` far ahead in each row, or old before new where it is -1."""
        logits = torch.zeros(2, loaded.vocabulary)
        logits[:, new], logits[:, old] = 10.0, 10.5
        for row, token in enumerate(leading):
            if token >= 0:
                logits[row, token] = 100.0
        tokens: list[int] = rows.draw(logits, step).tolist()
        return tokens

    inside = new if penalise_states else old
    assert drawn(0, opens, opens) == [opens, opens]
    assert drawn(1) == [inside, inside]
    assert drawn(2, brace, -1)[0] == brace
    # One group of row 0 is closed, none of row 1.
    if not penalise_states:
        assert drawn(3) == [old, old]
        assert drawn(4, brace, -1) == [brace, old]
        # Row 0 speaks now; row 1 is still in its states. Both have seen old.
        assert drawn(5) == [new, old]


@pytest.mark.parametrize("speaks", [True, False])
def test_states_and_utterance_have_limits_of_their_own(
    tiny_base: Path, engine: TransformersEngine, speaks: bool
) -> None:
    """Three tokens for the states, two for the utterance: "{", "}", "}", then two of the utterance;
    a reply that does not open with a state has two."""
    loaded = loaded_model(tiny_base, CONFIG)
    ids = {each: loaded.tokenizer.encode(each, add_special_tokens=False)[0] for each in "Q{}Z"}
    how = sampling(max_state_tokens=3, max_new_tokens=2)
    rows = Rows(loaded, [asked("hi", how=how, opens_with_states=True)], [[ids["Q"]]])
    written = "ZZZZ" if speaks else "{}}ZZZ"
    for step, each in enumerate(written):
        if rows.finished():
            break
        logits = torch.zeros(1, loaded.vocabulary)
        logits[0, ids[each]] = 100.0
        rows.draw(logits, step)
    (completion,) = rows.completions()
    assert (completion.text, completion.finish_reason) == (
        ("ZZ", "length") if speaks else ("{}}ZZ", "length")
    )
    never = Rows(loaded, [asked("hi", how=how, opens_with_states=True)], [[ids["Q"]]])
    for step in range(3):
        assert not never.finished()
        logits = torch.zeros(1, loaded.vocabulary)
        logits[0, ids["{"]] = 100.0
        never.draw(logits, step)
    assert never.finished()  # states that never close end at their own limit


def test_a_plain_reply_is_penalised_from_its_start(
    tiny_base: Path, engine: TransformersEngine
) -> None:
    loaded = loaded_model(tiny_base, CONFIG)
    (old,) = loaded.tokenizer.encode("Q", add_special_tokens=False)
    rows = Rows(loaded, [asked("hi", how=sampling(repetition_penalty=1.5))], [[old]])
    logits = torch.zeros(1, loaded.vocabulary)
    logits[0, old], logits[0, old + 1] = 10.5, 10.0
    assert rows.draw(logits, 0).tolist() == [old + 1]


def test_a_prefix_is_continued_and_not_repeated(
    engine: TransformersEngine, reference: Any, chatml_tokenizer: Any
) -> None:
    request = asked("hi", prefix="{u_motivation: ")
    expected = greedy(reference, chatml_tokenizer, request)
    assert engine.generate([request]) == [[expected]]


def test_spaces_at_the_end_of_a_prefix_belong_to_the_options(engine: TransformersEngine) -> None:
    """Tokenizers join a space to the word behind it."""
    (ahead,) = engine.choose([asked("hi", prefix="It is ")], [["A", "so good"]])
    (behind,) = engine.choose([asked("hi", prefix="It is")], [[" A", " so good"]])
    assert ahead == behind


def test_a_prompt_that_is_too_long_is_named(engine: TransformersEngine) -> None:
    long = asked("word " * 800)
    with pytest.raises(EngineError, match=r"'r/word word.*leaves room for 976") as caught:
        engine.generate([asked("hi"), long])
    assert "raise model.max_context" in str(caught.value)
    with pytest.raises(EngineError, match="leaves room for"):
        engine.choose([long], [["A"]])
