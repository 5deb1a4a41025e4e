"""Steering: what is asked for, and which logits change.

``chars`` stands for the token of one character: the tokenizers here know all of ASCII.
"""

import math
from typing import Any

import pytest
import torch
from forced_values import FORCED
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config.model import ModelConfig
from sage_core.engines.steerer import Row, Steerer, Vocabulary, apply
from sage_core.engines.steering import (
    Ban,
    Boost,
    Force,
    Steering,
    read_ban,
    read_boost,
    read_force,
)
from sage_core.errors import ConfigError
from sage_core.sac import parse

CONFIG = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=2048)
USER = "{u_motivation: complaint, u_emotion: sad, u_topic: [bus, rain]} "
AGENT = "{a_motivation: sympathy, a_emotion: caring, a_topic: [bus]} "


@pytest.fixture(scope="module")
def vocabulary(chatml_tokenizer: Any) -> Vocabulary:
    return Vocabulary.of(chatml_tokenizer, len(chatml_tokenizer) + 8)


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """A tokenizer of Mistral's kind: a mark for the space, bytes for what it does not know."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz_,:{}[]"]
    merges = [("h", "u"), ("m", "o"), ("hu", "mo"), ("humo", "r"), ("\u2581", "humor")]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(merge) for merge in merges)]
    bpe = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    bpe.normalizer = normalizers.Replace(" ", "\u2581")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return Vocabulary.of(tokenizer, len(tokens))


def followed(text: str) -> Row:
    row = Row()
    row.feed(text.encode())
    return row


def changes(
    vocabulary: Vocabulary, steering: Steering, text: str, *, grammar: bool = False
) -> dict[str, float]:
    """What is added to which tokens' logits after ``text``: -inf is never."""
    row = followed(text)
    logits = torch.zeros(1, len(vocabulary.texts))
    apply(logits, [Steerer(vocabulary, steering, grammar=grammar).edit(row)])
    return {
        vocabulary.texts[token].decode(errors="replace"): float(logits[0, token])
        for token in logits[0].nonzero()[:, 0].tolist()
    }


# What is asked for


def test_the_command_lines_forms_are_read() -> None:
    assert read_boost("motivation=humor:1.0") == Boost("agent", "motivation", "humor", 1.0)
    assert read_boost("user.topic = at 5:30:-2") == Boost("user", "topic", "at 5:30", -2.0)
    assert read_force("emotion=playful") == Force("agent", "emotion", ("playful",))
    assert read_force("user.topic=cats, dogs") == Force("user", "topic", ("cats", "dogs"))
    assert read_force("motivation=a, b=c") == Force("agent", "motivation", ("a, b=c",))
    assert read_ban("agent.emotion=angry") == Ban("agent", "emotion", "angry")
    assert Steering.read(boost=["emotion=joy:1"], ban=["topic=rain"]) == Steering(
        (Boost("agent", "emotion", "joy", 1.0),), (), (Ban("agent", "topic", "rain"),)
    )


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_boost, "mood=joy:1", "'agent.mood' is not a field.* motivation, emotion, topic"),
        (read_boost, "model.emotion=joy:1", "'model.emotion' is not a field.* user, agent"),
        (read_boost, "emotion", r"of the form .* motivation=humor:1.0"),
        (read_boost, "emotion=joy", "names no value in logits"),
        (read_boost, "emotion=joy:much", "names no value in logits"),
        (read_boost, "emotion=joy:nan", "'joy' is nan; .* a finite number"),
        (read_boost, "emotion=joy:inf", "'joy' is inf; .* a finite number"),
        (read_boost, "emotion=:1", "'' cannot be the emotion of the agent"),
        (read_force, "emotion=", "'' cannot be the emotion"),
        (read_force, "user.topic=a,,b", "'a', '', 'b' cannot be the topic of the user"),
        (read_force, "emotion=null", "'null' cannot be the emotion"),
        (read_force, "emotion=joy}", "'joy}' cannot be the emotion"),
        (read_force, "emotion=x, a_topic: y", "cannot be the emotion"),
        (read_ban, "topic=a, b", "'a, b' cannot be the topic"),
        (read_ban, "topic=", "'' cannot be the topic"),
    ],
)
def test_what_cannot_be_asked_is_named(read: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"'agent.mood'.*'joy' is nan.*'user.x'"):
        Steering.read(boost=["mood=joy:1", "emotion=joy:nan"], ban=["user.x=y"])


def test_contradictions_are_refused() -> None:
    joy = Force("agent", "emotion", ("joy",))
    with pytest.raises(ConfigError, match="which is banned"):
        Steering(forces=(joy,), bans=(Ban("agent", "emotion", "Joy"),))
    with pytest.raises(ConfigError, match=r"agent.emotion: forced more than once"):
        Steering(forces=(joy, Force("agent", "emotion", ("sad",))))
    with pytest.raises(ConfigError, match=r"agent.topic=x: boosted more than once"):
        Steering(boosts=(Boost("agent", "topic", "x", 1), Boost("agent", "topic", "x", 2)))
    with pytest.raises(ConfigError, match="exactly one"):
        Force("agent", "emotion", ("joy", "sad"))
    Steering(forces=(joy,), bans=(Ban("user", "emotion", "joy"), Ban("agent", "emotion", "joyful")))


def test_a_keyword_without_tokens_or_with_special_ones_is_refused(vocabulary: Vocabulary) -> None:
    letters = Vocabulary([b"<end>", b"a", b"b", b"joy"], {0})
    for keyword in ("joy", "abba", "joyb"):
        letters.check(Steering(bans=(Ban("agent", "emotion", keyword),)))
    for keyword in ("jo", "ajoyx", "é"):
        with pytest.raises(ConfigError, match=f"no tokens for the keyword '{keyword}'"):
            letters.check(Steering(bans=(Ban("agent", "emotion", keyword),)))
    steering = Steering(bans=(Ban("agent", "emotion", "a<|im_end|>"),))
    with pytest.raises(ConfigError, match=r"holds '<\|im_end\|>', a special token"):
        Steerer(vocabulary, steering, grammar=False)


# Boosts


BUS = Steering((Boost("agent", "topic", "bus", 1.5),))


def test_a_boost_raises_what_goes_on_with_the_keyword_and_nothing_else(
    vocabulary: Vocabulary,
) -> None:
    known = {text.decode(errors="replace") for text in vocabulary.texts}
    begin = f"{USER}{{a_motivation: x, a_emotion: y, a_topic: ["
    assert {"b", "bus", " b"} <= known

    def raised(rest: str) -> set[str]:
        found = changes(vocabulary, BUS, begin + rest)
        assert set(found.values()) <= {1.5}
        return set(found)

    starts = {"b", "bu", "bus", "bus,", "bus, ", "bus]"} & known
    spaced = {" b", " bu", " bus", " bus,", " bus]"} & known
    assert raised("") == starts | spaced
    assert raised("rain,") == starts | spaced
    assert raised("rain, ") == starts
    assert raised("b") == {"u", "us", "us,", "us]"} & known
    # At its end, what the format writes behind it; then nothing.
    assert raised("bus") == {",", ", ", ", a", "]", "]}"} & known
    assert raised("bus,") == set()
    assert raised("bus, rain, ") == set()
    for departed in ("B", "bo", "buses", "rain", "[", "rain]", "rain], "):
        assert raised(departed) == set()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{a_topic",
        "{a_topic:",  # the list is not open
        "{u_topic: [",
        f"{USER}{{a_emotion: ",
        f"{USER}{AGENT}",
        f"{USER}{AGENT}Oh {{a_topic: [",
        "Hi {a_topic: [",
    ],
)
def test_a_boost_has_no_effect_anywhere_else(vocabulary: Vocabulary, text: str) -> None:
    assert changes(vocabulary, BUS, text) == {}


@pytest.mark.parametrize("tokenizer", ["bytes", "marks"])
@given(
    st.text(st.sampled_from("abcdefghumor é😀,"), min_size=1, max_size=12),
    st.sampled_from(["motivation", "emotion", "topic"]),
    st.randoms(use_true_random=False),
)
def test_a_keyword_is_raised_to_its_last_token_however_it_is_cut(
    vocabulary: Vocabulary,
    spaced: Vocabulary,
    tokenizer: str,
    keyword: str,
    field: Any,
    random: Any,
) -> None:
    """Following raised tokens writes the keyword and the value's end; no other token is raised."""
    vocabulary = vocabulary if tokenizer == "bytes" else spaced
    try:
        steering = Steering((Boost("agent", field, keyword, 3.0),))
    except ConfigError:
        return
    steerer = Steerer(vocabulary, steering, grammar=False)
    opening = " [" if field == "topic" else ""
    row = followed(f"{{a_{field}:{opening}")
    text = b""
    for _ in range(100):
        edit = steerer.edit(row)
        if edit is None:
            break
        assert set(edit.values.tolist()) == {3.0}
        assert not edit.alone
        token = random.choice(edit.tokens.tolist())
        text += vocabulary.texts[token]
        row.feed(vocabulary.texts[token])
    written = text.decode().removeprefix(" ")
    assert written.startswith(keyword)
    assert written[len(keyword)] in (",", "]")


def test_raises_do_not_pile_up_where_keywords_share_a_token(vocabulary: Vocabulary) -> None:
    steering = Steering(
        (
            Boost("agent", "emotion", "sad", 2.0),
            Boost("agent", "emotion", "sadness", 1.0),
            Boost("agent", "emotion", "safe", -0.5),
        )
    )
    found = changes(vocabulary, steering, "{a_emotion: sa")
    assert (found["d"], found["f"]) == (2.0, -0.5)
    found = changes(vocabulary, steering, "{a_emotion: s")
    assert found["a"] == 1.5
    found = changes(vocabulary, steering, "{a_emotion: sad")
    assert (found["n"], found[","]) == (1.0, 2.0)


# Forces


def test_a_forced_value_is_the_only_way_on(vocabulary: Vocabulary) -> None:
    def rest(text: str, *, grammar: bool = False) -> str:
        steerer, row, written = Steerer(vocabulary, FORCED, grammar=grammar), followed(text), b""
        while (edit := steerer.edit(row)) and edit.alone:
            (token,) = edit.tokens.tolist()
            written += vocabulary.texts[token]
            row.feed(vocabulary.texts[token])
        return written.decode()

    assert rest("") == "{u_motivation:"
    assert rest("{u_motivation: a,") == " u_emotion: grumpyish, u_topic: ["
    assert rest("{u_motivation: a, u_emotion:", grammar=True) == " grumpyish, u_topic:"
    assert rest("{user_emotion: gr", grammar=True) == "umpyish, user_topic:"
    assert rest("{u_topic: [a]") == "} {a_motivation: Zoë's {odd} wish, no 7, a_emotion:"
    begin = f"{USER}{{a_motivation: x, a_emotion: y"
    assert rest(f"{begin},") == " a_topic: [cats, xylophonic 😀, dogs]}"
    # A free value ends with its comma and holds no braces; the reply cannot end in it.
    every = {text.decode(errors="replace") for text in vocabulary.texts}
    free = every - set(changes(vocabulary, FORCED, begin))
    assert {",", "a", "'", " "} <= free
    assert not {"{", "}", ":", ""} & free
    # All other tokens but one are impossible where the text is forced.
    row, logits = followed(f"{begin},"), torch.zeros(1, len(vocabulary.texts))
    apply(logits, [Steerer(vocabulary, FORCED, grammar=False).edit(row)])
    assert (logits > -math.inf).sum() == 1
    # Past the states, all is free.
    assert changes(vocabulary, FORCED, f"{USER}{AGENT}") == {}


@pytest.mark.parametrize("tokenizer", ["bytes", "marks"])
@given(st.text(st.sampled_from("abcdefghumor é😀"), min_size=1, max_size=12))
def test_a_forced_value_is_cut_as_the_tokenizer_cuts_it(
    vocabulary: Vocabulary, spaced: Vocabulary, tokenizer: str, value: str
) -> None:
    vocabulary = vocabulary if tokenizer == "bytes" else spaced
    try:
        steering = Steering(forces=(Force("agent", "emotion", (value,)),))
    except ConfigError:
        return
    steerer, row, tokens = Steerer(vocabulary, steering, grammar=True), followed("{a_emotion:"), []
    while edit := steerer.edit(row):
        tokens.append(edit.tokens.item())
        row.feed(vocabulary.texts[tokens[-1]])
    assert [*vocabulary.cut(f" {value}, a_topic:").values()] == tokens


def test_a_prefix_that_has_the_field_stands(vocabulary: Vocabulary) -> None:
    assert changes(vocabulary, FORCED, "{u_emotion: joyful", grammar=True) == {}


# Bans


def test_a_ban_stops_the_value_from_ending_there(vocabulary: Vocabulary) -> None:
    steering = Steering(bans=(Ban("user", "emotion", "sad"), Ban("user", "topic", "rain")))

    def never(text: str) -> set[str]:
        found = changes(vocabulary, steering, text)
        assert set(found.values()) <= {-math.inf}
        return set(found)

    for text in ("{u_emotion: sad", "{u_emotion:sad ", "{u_emotion: SaD"):
        assert {",", "}"} <= never(text)
        assert not {"d", " ", "n", "{", "]"} & never(text)
    for text in (
        "{u_topic: [rain",
        "{u_topic: [bus, Rain ",
        "{u_topic: rain",
        "{u_topic: [a], rain",
    ):
        assert {",", "]", "}"} <= never(text)
    for text in ("{u_emotion: sa", "{u_emotion: saddish", "{u_emotion: so sad", "{u_emotion: rain",
                 "{u_topic: [sad", "{a_emotion: sad", "", f"{USER}{AGENT}sad"):  # fmt: skip
        assert never(text) == set()


def test_tokens_that_hold_a_word_and_its_end_are_banned_too() -> None:
    vocabulary = Vocabulary(
        [b"a", b"d", b" ", b",", b"}", b"ad,", b"ad ,", b" sad}", b": sad,", b", SAD]", b"ad, x",
         b"adx,", b"s", b"\xa9,"],
        (),
    )  # fmt: skip
    steering = Steering(bans=(Ban("user", "emotion", "sad"),))
    everywhere = {": sad,", ", SAD]", "\ufffd,"}
    assert set(changes(vocabulary, steering, "{u_emotion")) == everywhere
    assert set(changes(vocabulary, steering, "{u_emotion:")) == everywhere | {" sad}"}
    assert set(changes(vocabulary, steering, "{u_emotion: s")) == everywhere | {
        "ad,",
        "ad ,",
        "ad, x",
    }
    assert set(changes(vocabulary, steering, "{u_emotion: sad")) == everywhere | {",", "}"}


CORNERS = Vocabulary(
    [text.encode() for text in (
        "{", "}", "[", "]", ",", ":", " ", "\n", "s", "ad", "sad", "SAD", "ad,", "ad]}", "dish",
        ", sad", ": sad,", " sad}", "[sad]", "[sad, x]", "sad\u3000,", "{u_emotion:",
        "{a_topic: [",
        ", u_topic:", ", a_emotion:", "u_emotion", "a_topics", "} {a_emotion: ", "é", "𝅘",
    )]
    + [b"\xc3", b"\xa9", b"\xa9,"],
    (),
)  # fmt: skip


@given(st.randoms(use_true_random=False), st.sampled_from(["sad", "é", "sad sad", "sad: é"]))
def test_no_text_gets_around_a_ban(random: Any, keyword: str) -> None:
    """Tokens at random, those that are possible only, however odd: the parser finds no ban."""
    bans = [Ban(s, f, keyword) for s in ("user", "agent") for f in ("emotion", "topic")]  # type: ignore[arg-type]
    steerer = Steerer(CORNERS, Steering(bans=tuple(bans)), grammar=False)
    text = random.choice(["", "{u_emotion:", "{a_topic: [", "{u_topic: [] {"]).encode()
    row = Row(text.decode())
    for _ in range(random.randrange(60)):
        edit = steerer.edit(row)
        banned = () if edit is None else edit.tokens.tolist()
        token = random.choice([t for t in range(len(CORNERS.texts)) if t not in banned])
        text += CORNERS.texts[token]
        row.feed(CORNERS.texts[token])
        reply = parse(text.decode(errors="replace"))
        for state in (reply.user, reply.agent):
            values = {str(state.emotion), *state.topics}
            assert keyword.casefold() not in {value.casefold() for value in values}
