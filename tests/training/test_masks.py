"""The loss mask covers exactly what the assistant says, with the token that ends it."""

from typing import Any

import pytest

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
    encoded = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in conversation],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    tokens, mask = encoded["input_ids"], encoded["assistant_masks"]
    assert len(tokens) == len(mask)
    runs: list[list[int]] = []
    for index, (token, masked) in enumerate(zip(tokens, mask, strict=True)):
        if masked:
            if index == 0 or not mask[index - 1]:
                runs.append([])
            runs[-1].append(token)
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
