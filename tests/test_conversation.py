"""One conversation, everywhere: what a model is asked is the start of what it was trained on, token
for token, for each speaker and each stage."""

import copy
from typing import Any

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_of_families import metaspace_tokenizer, packaged_template, real_tokenizer

from sage_core.config.conversation import ConversationConfig
from sage_core.config.engine import SamplingConfig
from sage_core.conversation import Said, of_annotated, of_turns, shortened, view
from sage_core.engines import own_template
from sage_core.engines.base import Request
from sage_core.engines.grammar import sac_grammar, user_grammar, utterance_grammar
from sage_core.engines.prompts import Prompts, check
from sage_core.errors import ConfigError
from sage_core.sac import StateAction
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Message,
    TrainingDialogue,
    TrajectoryTurn,
    with_roles,
)
from sage_core.training.tokens import NO_LOSS, Encoder

PROFILES = ConversationConfig()
S = [StateAction(f"m{number}", f"e{number}", (f"t{number}",)) for number in range(5)]
ROLES = ("user", "assistant", "user", "assistant", "user")


def states(seen: int | None, own: int) -> str:
    def group(prefix: str, number: int | None) -> str:
        values = ("null", "null", "") if number is None else tuple(f"{f}{number}" for f in "met")
        return "{{{0}_motivation: {1}, {0}_emotion: {2}, {0}_topic: [{3}]}}".format(prefix, *values)

    return f"{group('u', seen)} {group('a', own)}"


def annotated(turns: int, first: int = 0) -> AnnotatedDialogue:
    return AnnotatedDialogue(
        "d",
        tuple(
            AnnotatedTurn(ROLES[i], f"say {i}", S[i].motivation, S[i].emotion, S[i].topics)
            for i in range(first, turns)
        ),
    )


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5])
def test_user_states_move_to_the_reply_that_follows(turns: int) -> None:
    seen = view(of_annotated(annotated(turns)), PROFILES.agent, states=True)
    profile, consent, *messages = seen.messages
    assert profile == Message("user", PROFILES.agent.ask)
    assert consent == Message("assistant", f"{PROFILES.agent.states} {PROFILES.agent.consent}")
    assert [m.role for m in messages] == list(ROLES[:turns])
    for number, message in enumerate(messages):
        own = f"{states(number - 1, number)} " if message.role == "assistant" else ""
        assert message.content == f"{own}say {number}"
    assert seen.loss == ("none", "none", *("whole" if r == "assistant" else "none"
                                           for r in ROLES[:turns]))  # fmt: skip
    assert seen.pinned == 3


def test_raw_sees_words_only() -> None:
    seen = view(of_annotated(annotated(4)), PROFILES.agent, states=False)
    assert seen.messages == (
        Message("user", PROFILES.agent.ask),
        Message("assistant", PROFILES.agent.consent),
        *(Message(ROLES[i], f"say {i}") for i in range(4)),
    )


def test_the_user_sees_its_own_states_and_the_agents_words() -> None:
    """It opens the conversation: its first turn answers its profile, sees nothing in the other one
    and carries no loss."""
    seen = view(of_annotated(annotated(4)), PROFILES.user, states=True, speaker="user")
    assert seen.messages == (
        Message("user", PROFILES.user.ask),
        Message("assistant", f"{states(None, 0)} say 0"),
        Message("user", "say 1"),
        Message("assistant", f"{states(1, 2)} say 2"),
        Message("user", "say 3"),
    )
    assert seen.loss == ("none", "none", "none", "whole", "none")


def test_an_agent_that_opens_keeps_its_role_and_its_first_turn_has_no_loss() -> None:
    seen = view(of_annotated(annotated(4, first=1)), PROFILES.agent, states=True)
    assert [message.role for message in seen.messages] == ["user", "assistant", "user", "assistant"]
    assert seen.messages[1].content == f"{states(None, 1)} say 1"
    assert seen.messages[3].content == f"{states(2, 3)} say 3"
    assert seen.loss == ("none", "none", "none", "whole")


def test_a_turn_of_a_model_without_states_is_read_as_it_is() -> None:
    turns = [
        TrajectoryTurn("user", "hi {there}", (), states="{a_emotion: sad}"),
        TrajectoryTurn("assistant", "no states {here}", (), cut=True),
    ]
    assert of_turns(turns) == [
        Said("user", "hi {there}", "{a_emotion: sad} hi {there}"),
        Said("assistant", "no states {here}", "no states {here}", cut=True),
    ]


@given(st.integers(0, 9), st.integers(0, 4))
def test_what_is_left_out_leaves_the_speakers_alternating(count: int, pinned: int) -> None:
    messages = with_roles([str(number) for number in range(count)])
    shorter = shortened(messages, pinned)
    if shorter is None:
        assert count - pinned < 3
    else:
        assert shorter == (*messages[:pinned], *messages[pinned + 2 :])


# --- tokens ---------------------------------------------------------------------------------------

LINES = ("I waited an hour for the bus!", states(0, 1), "Oh no, what happened then? [INST] hi")
SAID = [
    Said("user", "I waited an hour for the bus!", f"{states(None, 0)} I waited an hour!"),
    Said("assistant", "Oh no. And then?", f"{states(0, 1)} Oh no. And then?"),
    Said("user", "it [INST] came </s>", f"{states(1, 2)} it [INST] came </s>"),
    Said("assistant", "Übung macht den Meister 🐕", f"{states(2, 3)} Übung macht den Meister 🐕"),
    Said("user", "1 more", f"{states(3, 4)} 1 more"),
]


def check_tokens(tokenizer: Any) -> None:
    """For each speaker and turn: the prompt, the prompt that goes on from the states, and the
    options behind them are the tokens of the training example; the grammars accept its reply."""
    prompts, encoder = Prompts(tokenizer), Encoder(tokenizer)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    compiler = xgrammar.GrammarCompiler(info)
    for role, profile in (("assistant", PROFILES.agent), ("user", PROFILES.user)):
        for with_states in (True, False):
            whole = view(SAID, profile, states=with_states, speaker=role)  # type: ignore[arg-type]
            for place, loss in enumerate(whole.loss):
                if loss == "none":
                    continue
                example = encoder.dialogue(
                    TrainingDialogue(
                        whole.messages[: place + 1],
                        (*["none"] * place, "whole"),  # type: ignore[arg-type]
                    )
                )
                trained = [at for at, s in enumerate(example.segments) if s != NO_LOSS]
                start = trained[0]
                assert trained == list(range(start, trained[-1] + 1))
                asked = Request(f"r{place}", whole.messages[:place], SamplingConfig())
                ids, _ = prompts.fit(asked)
                assert ids == example.ids[:start]
                reply = whole.messages[place].content
                end = start + len(prompts.option("", reply))  # the end of the turn follows
                assert end <= trained[-1]
                written = tokenizer.decode(example.ids[start:end])
                assert written.strip().replace("< /s>", "</s>") == shielded(reply, tokenizer)
                if not with_states:
                    continue
                utterance = reply.split("} ", 2)[2]
                prefix = reply.removesuffix(utterance).rstrip()
                behind, _ = prompts.fit(
                    Request("p", whole.messages[:place], SamplingConfig(), prefix=prefix)
                )
                assert behind == example.ids[: len(behind)]
                assert len(behind) > start
                words = prompts.option(prefix, f" {utterance}")
                assert [*behind, *words] == example.ids[:end]
                for constraint, tokens in (
                    (prompts.led(sac_grammar()), example.ids[start:end]),
                    (utterance_grammar(), words),
                ):
                    matcher = xgrammar.GrammarMatcher(
                        compiler.compile_grammar(constraint.text),
                        override_stop_tokens=[tokenizer.eos_token_id],
                    )
                    assert all(matcher.accept_token(token) for token in tokens)
                matcher = xgrammar.GrammarMatcher(
                    compiler.compile_grammar(prompts.led(user_grammar()).text)
                )
                assert matcher.accept_token(example.ids[start])


def shielded(reply: str, tokenizer: Any) -> str:
    """The reply as the template shows it: special tokens that are plain text get a space inside."""
    return reply.replace("[INST]", "[ INST]") if "[INST]" in tokenizer.chat_template else reply


@pytest.mark.parametrize("name", ["chatml", "mistral", "metaspace"])
def test_a_prompt_is_the_start_of_its_training_example(
    name: str, request: pytest.FixtureRequest
) -> None:
    if name == "metaspace":
        tokenizer = metaspace_tokenizer(LINES)
        assert Prompts(tokenizer).lead == " "
    else:
        tokenizer = request.getfixturevalue(f"{name}_tokenizer")
    check_tokens(tokenizer)


@pytest.mark.integration
@pytest.mark.parametrize("family", ["mixtral", "llama2", "llama3", "gemma3", "qwen3"])
def test_a_prompt_is_the_start_of_its_training_example_on_real_tokenizers(
    family: str, request: pytest.FixtureRequest
) -> None:
    folder = request.config.cache.mkdir("tokenizers")  # type: ignore[union-attr]
    tokenizer = real_tokenizer(family, folder)
    own_template.fix(tokenizer, family, {})
    check_tokens(tokenizer)


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_a_template_that_cannot_carry_the_exchange_is_refused(chatml_tokenizer: Any) -> None:
    once = with_template(
        chatml_tokenizer,
        "{%- if messages | length > 2 -%}{{- raise_exception('one question only') -}}{%- endif -%}"
        + packaged_template("chatml"),
    )
    with pytest.raises(ConfigError, match=r"'some/model' cannot be used.*one question only"):
        check(once, "some/model")


def test_a_tokenizer_that_merges_the_seam_is_refused(chatml_tokenizer: Any) -> None:
    """The template puts "emoti" before a reply, which the tokenizer joins to what follows."""
    glued = with_template(
        chatml_tokenizer,
        "{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}"
        "{{- 'u_emotion: sa' -}}"
        "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
        "{%- else -%}{{- message['content'] -}}{%- endif -%}{%- endfor -%}",
    )
    whole = glued.encode("u_emotion: sad", add_special_tokens=False)
    assert whole[:-1] != glued.encode("u_emotion: sa", add_special_tokens=False)
    with pytest.raises(ConfigError, match="joins the end of a prompt"):
        check(glued, "some/model", replies=("d", "x"))


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_the_packaged_templates_pass(name: str, request: pytest.FixtureRequest) -> None:
    check(request.getfixturevalue(f"{name}_tokenizer"), "some/model")
    check(metaspace_tokenizer(LINES), "some/model")
