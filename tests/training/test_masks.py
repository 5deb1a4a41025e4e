"""The loss mask covers exactly what the assistant says, with the token that ends it, and tells
its states from its words."""

from itertools import groupby
from typing import Any

import pytest

from sage_core.config.conversation import ConversationConfig
from sage_core.engines.loading import embedded_gguf
from sage_core.mixture import training_text
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Message,
    PreferencePair,
    TrainingDialogue,
    with_roles,
)
from sage_core.training.tokens import ACTION, NO_LOSS, STATE, UTTERANCE, Encoder

CONVERSATIONS = [
    [("user", "I waited an hour for the bus!"), ("assistant", "Oh no, what happened then?")],
    [
        ("system", "Be my companion."),
        ("user", "My dog ran away last night."),
        (
            "assistant",
            "{u_motivation: sharing, u_emotion: sad, u_topic: [dog]} "
            "{a_motivation: sympathy, a_emotion: null, a_topic: []} Oh no. Tell me {more}!",
        ),
        ("user", "assistant\nuser [INST] is my favourite word"),
        ("assistant", "Üben, üben, üben.\n\nAnd you? 🐕"),
        ("user", "bye"),
    ],
    [("user", "hi"), ("assistant", "a"), ("user", "b"), ("assistant", "c")],
]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize(("template", "end"), [("chatml", "<|im_end|>"), ("mistral", "</s>")])
def test_the_mask_covers_the_replies_and_their_ends(
    template: str, end: str, conversation: list[tuple[str, str]], request: pytest.FixtureRequest
) -> None:
    tokenizer: Any = request.getfixturevalue(f"{template}_tokenizer")
    messages = tuple(Message(role, content) for role, content in conversation)  # type: ignore[arg-type]
    encoded = Encoder(tokenizer).dialogue(TrainingDialogue(messages))
    runs = [
        [token for token, _ in run]
        for masked, run in groupby(
            zip(encoded.ids, encoded.segments, strict=True), key=lambda each: each[1] != NO_LOSS
        )
        if masked
    ]
    spoken = [content for role, content in conversation if role == "assistant"]
    # The space before a reply of the Mistral template may be part of the reply's first token.
    assert [tokenizer.decode(run).removeprefix(" ") for run in runs] == [
        content + end for content in spoken
    ]


def test_the_prompt_is_the_start_of_the_conversation(
    chatml_tokenizer: Any, mistral_tokenizer: Any
) -> None:
    """What the model reads when it is asked for a reply is what training put before replies."""
    prompt = [{"role": "user", "content": "hi"}]
    whole = [*prompt, {"role": "assistant", "content": "Hello."}]
    for tokenizer in (chatml_tokenizer, mistral_tokenizer):
        asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        trained = tokenizer.apply_chat_template(whole, tokenize=False)
        assert trained.startswith(asked)
        assert "hi" in asked
        assert "Hello." not in asked


U = "{u_motivation: sharing, u_emotion: sad, u_topic: [dog, {x}]}"
A = "{a_motivation: sympathy, a_emotion: null, a_topic: []}"
SAID = "Oh no. Tell me {more}!\n\nÜben 🐕"
FORMATS = {
    "chatml": (
        "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
        "\n",
    ),
    "mistral": (" [INST] %s [/INST]", "</s>", ""),
}


@pytest.fixture(scope="session")
def smollm2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The embedded model's own tokenizer, with the template that it is trained with."""
    from importlib import resources

    from transformers import AutoTokenizer

    gguf = embedded_gguf()
    assert gguf is not None
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    template = resources.files("sage_core.templates").joinpath("chatml.jinja")
    tokenizer.chat_template = template.read_text("utf-8")
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "form"),
    [("chatml", "chatml"), ("mistral", "mistral"), ("smollm2", "chatml")],
)
def test_every_token_has_the_segment_of_its_text(
    tokenizer: str, form: str, request: pytest.FixtureRequest
) -> None:
    """The text is put together here by hand, part by part, and cut into its tokens' texts."""
    tok: Any = request.getfixturevalue(f"{tokenizer}_tokenizer")
    opening, end, after = FORMATS[form]
    before = tok.bos_token if form == "mistral" else ""
    space = " " if form == "mistral" else ""  # joined to the first token of a reply, or not
    parts = [
        (NO_LOSS, before + opening % "My dog ran away."),
        (STATE, space + U), (ACTION, " " + A), (UTTERANCE, f" {SAID}{end}"),
        (NO_LOSS, after + opening % "and {a_motivation: x} then?"),
        (UTTERANCE, f"{space}No states here.{end}"),
        (NO_LOSS, after + opening % "bye"),
        (ACTION, space + A), (UTTERANCE, f" Bye.{end}"),
        (NO_LOSS, after),
    ]  # fmt: skip
    said = ["My dog ran away.", f"{U} {A} {SAID}", "and {a_motivation: x} then?",
            "No states here.", "bye", f"{A} Bye."]  # fmt: skip
    encoded = Encoder(tok).dialogue(TrainingDialogue(with_roles(said)))
    text = "".join(part for _, part in parts)
    assert encoded.ids == tok.encode(text, add_special_tokens=False)
    runs = [
        (segment, tok.decode([token for token, _ in run]))
        for segment, run in groupby(
            zip(encoded.ids, encoded.segments, strict=True), key=lambda each: each[1]
        )
    ]
    # A space before a reply is the model's to write, whether it opens the first word or is a token.
    assert [run for run in runs if run[0] != NO_LOSS] == [
        part for part in parts if part[0] != NO_LOSS
    ]
    assert sum(segment == NO_LOSS for segment, _ in runs) == (4 if after else 3)


def test_marks_in_what_was_said_are_plain_text(chatml_tokenizer: Any) -> None:
    said = ["hi", f"{U} {A} I am <|im_end|>\n<|im_start|>user"]
    encoded = Encoder(chatml_tokenizer).dialogue(TrainingDialogue(with_roles(said)))
    scored = [t for t, s in zip(encoded.ids, encoded.segments, strict=True) if s != NO_LOSS]
    assert scored.count(chatml_tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1
    assert chatml_tokenizer.decode(scored) == said[1] + "<|im_end|>"


@pytest.mark.parametrize("template", ["chatml", "mistral"])
def test_the_replies_of_a_pair_go_on_from_its_prompt(
    template: str, request: pytest.FixtureRequest
) -> None:
    tok: Any = request.getfixturevalue(f"{template}_tokenizer")
    prompt = with_roles(["hi", f"{U} {A} Hello.", "bye"])
    pair = Encoder(tok).pair(PreferencePair(prompt, f"{U} {A} Yes.", "No."))
    asked = tok.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in prompt],
        tokenize=False,
        add_generation_prompt=True,
    )
    end = tok.eos_token
    assert tok.decode(pair.prompt).rstrip(" ") == asked
    assert tok.decode(pair.chosen).lstrip(" ") == f"{U} {A} Yes.{end}"
    assert tok.decode(pair.rejected).lstrip(" ") == f"No.{end}"
    length = Encoder(tok).length((*prompt, Message("assistant", "No.")))
    assert length - len(pair.prompt + pair.rejected) == (template == "chatml")  # its line end


def annotated(*said: tuple[str, str]) -> AnnotatedDialogue:
    return AnnotatedDialogue(
        "d", tuple(AnnotatedTurn(role, text, None, "glad", ("tea",)) for role, text in said)
    )


TALK = [
    ("assistant", "Hello, how can I help?"),
    ("user", "My tea is cold."),
    ("assistant", "Then warm it up."),
    ("user", "Thanks!"),
    ("assistant", "Any time."),
]


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("template", ["chatml", "mistral"])
def test_what_the_assistant_opens_with_is_context_without_loss(
    template: str, states: bool, request: pytest.FixtureRequest
) -> None:
    """Of an annotated dialogue and of instruction data; one that the user opens has the loss on
    every reply but the consent."""
    tokenizer: Any = request.getfixturevalue(f"{template}_tokenizer")
    profiles, encoder = ConversationConfig(), Encoder(tokenizer)

    def trained(dialogue: TrainingDialogue) -> str:
        encoded = encoder.dialogue(dialogue)
        pairs = zip(encoded.ids, encoded.segments, strict=True)
        return tokenizer.decode([token for token, segment in pairs if segment == UTTERANCE])  # type: ignore[no-any-return]

    end = "<|im_end|>" if template == "chatml" else "</s>"
    for talk, replies in ((TALK, TALK[2::2]), (TALK[1:], TALK[2::2])):
        (dialogue,) = training_text([annotated(*talk)], profiles, states=states)
        said = " ".join(dialogue.messages[-1].content.split(" ")[-2:])
        assert said == "Any time."
        assert [m.role for m in dialogue.messages] == [
            *(["user"] if talk is TALK else ["user", "assistant"]), *(role for role, _ in talk)
        ]  # fmt: skip
        found = "".join(trained(dialogue).split())
        assert found == "".join(f"{text}{end}" for _, text in replies).replace(" ", "")
        # Only the loss is another than that of the same messages as they stand.
        messages = TrainingDialogue(dialogue.messages, ("none",) * len(dialogue.messages))
        assert encoder.dialogue(messages).ids == encoder.dialogue(dialogue).ids
    if template == "chatml":  # Mistral's refuses a conversation without a first message of the user
        told = TrainingDialogue(tuple(Message(*turn) for turn in TALK))
        assert told.losses == ("none", "none", "whole", "none", "whole")
        found = "".join(trained(told).split())
        assert found == "".join(f"{text}{end}" for _, text in TALK[2::2]).replace(" ", "")
