"""A model is asked and trained in its own chat template: the same ids as transformers gives, a mask
of exactly the replies with the token that ends them, and that token as the stop token; what cannot
be used so is refused before any work.

The tokenizer is small; it has the special tokens of each template, and another ``eos_token`` than
the templates end replies with, as base models have.
"""

import copy
import re
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers_of_families import (
    HERMES3,
    LLAMA2,
    MISTRAL_1,
    MIXTRAL,
    PHI4,
    packaged_template,
    real_tokenizer,
    trl_template,
)

from flows.commands import doctor_checks
from sage_core import preflight
from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines import own_template
from sage_core.engines.base import Request
from sage_core.engines.loaded_model import LoadedModel
from sage_core.engines.loading import embedded_gguf, load_tokenizer, prepare_base, stop_tokens
from sage_core.engines.prompts import Prompts
from sage_core.errors import ConfigError
from sage_core.schema import Message, TrainingDialogue, with_roles
from sage_core.training.tokens import NO_LOSS, Encoder

OWN = {
    "hermes3": HERMES3,
    "llama2": LLAMA2,
    "mistral_1": MISTRAL_1,
    "mixtral": MIXTRAL,
    "phi4": PHI4,
}
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "glm4moe": "<|user|>",  # where the user would speak
    "gptoss": "<|return|>",
    "hermes3": "<|im_end|>",
    "lfm2": "<|im_end|>",
    "llama2": "</s>",
    "llama3": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "mistral_1": "</s>",
    "mixtral": "</s>",
    "phi3": "<|end|>",
    "phi3_5": "<|end|>",
    "phi4": "<|im_end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
}
ARGUMENTS = {"qwen3": {"enable_thinking": False}, "qwen3_5_think": {"enable_thinking": False},
             "llama3_2": {"date_string": "1 May 2026"}}  # fmt: skip
SPEAKS_FROM_EOS = ("llama2", "mistral_1", "mixtral")  # they end replies with eos_token itself
FORCED = {"gptoss": "<|channel|>final<|message|>", "glm4moe": "\n<think></think>\n"}
SPECIAL = re.compile(r"<\|[^|<>' \"]+\|>|\[gMASK\]|<sop>|<(?:start|end)_of_turn>|</?think>")
SAID = ["I waited.", "{u_motivation: a} Oh no! {", "and <b> then?", "Bye 🐕"]
SYSTEM = Message("system", "Be kind.")


def template_of(family: str) -> str:
    return OWN.get(family) or trl_template(family)


def tokenizer_of(tokenizer: Any, template: str) -> Any:
    """A copy of the tokenizer with a model's template and its special tokens."""
    copied = copy.deepcopy(tokenizer)
    copied.add_tokens(sorted({*SPECIAL.findall(template), "<|eos|>"}), special_tokens=True)
    copied.chat_template = template
    copied.eos_token = "</s>" if "</s>" in copied.eos_token else "<|eos|>"
    return copied


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day that we write for every day, for templates that ask transformers for it."""
    clock = SimpleNamespace(now=lambda: datetime(2024, 7, 26))
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", clock)


@pytest.fixture(params=sorted(ENDS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def own(family: str, chatml_tokenizer: Any, mistral_tokenizer: Any) -> Any:
    """The model's tokenizer as its maker publishes it."""
    small = mistral_tokenizer if family in SPEAKS_FROM_EOS else chatml_tokenizer
    return tokenizer_of(small, template_of(family))


@pytest.fixture
def ours(own: Any, family: str) -> Any:
    fixed = copy.deepcopy(own)
    own_template.fix(fixed, family, ARGUMENTS.get(family, {}))
    return fixed


def as_transformers(tokenizer: Any, family: str, messages: Any, **more: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        [asdict(message) for message in messages],
        return_dict=False,
        **ARGUMENTS.get(family, {}),
        **more,
    )
    return ids


def trained_runs(tokenizer: Any, dialogue: TrainingDialogue) -> list[list[int]]:
    encoder = Encoder(tokenizer)
    return [
        [token for token, _ in run]
        for part in encoder.parts(dialogue)
        for encoded in [encoder.dialogue(part)]
        for scored, run in groupby(
            zip(encoded.ids, encoded.segments, strict=True), key=lambda each: each[1] != NO_LOSS
        )
        if scored
    ]


def test_a_prompt_has_the_ids_that_the_unmodified_template_gives(
    family: str, own: Any, ours: Any
) -> None:
    for messages in (with_roles(SAID[:1]), with_roles(SAID[:3])):
        ids, _ = Prompts(ours).fit(Request("r", messages, SamplingConfig()))
        asked = as_transformers(own, family, messages, add_generation_prompt=True)
        assert ids == asked + own.encode(FORCED.get(family, ""), add_special_tokens=False)


def test_a_dialogue_has_the_ids_that_the_unmodified_template_gives(
    family: str, own: Any, ours: Any
) -> None:
    messages = with_roles(SAID)
    encoded = Encoder(ours).dialogue(TrainingDialogue(messages))
    closing = own.encode("<|user|>", add_special_tokens=False) if family == "glm4moe" else []
    assert encoded.ids == as_transformers(own, family, messages) + closing


def test_exactly_the_replies_and_their_end_are_trained(family: str, ours: Any) -> None:
    runs = trained_runs(ours, TrainingDialogue(with_roles(SAID)))
    before = " " if family in ("llama2", "mixtral") else ""  # the model writes these spaces
    after = " " if family == "llama2" else ""
    assert [ours.decode(run) for run in runs] == [
        f"{before}{SAID[1]}{after}{ENDS[family]}", f"{before}{SAID[3]}{after}{ENDS[family]}"
    ]  # fmt: skip
    end = ours.convert_tokens_to_ids(ENDS[family])
    assert [run[-1] for run in runs] == [end, end]


def test_the_token_that_ends_a_reply_stops_generation(family: str, own: Any, ours: Any) -> None:
    assert (own.eos_token == ENDS[family]) == (family in SPEAKS_FROM_EOS)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=own.eos_token_id))
    end = ours.convert_tokens_to_ids(ENDS[family])
    assert set(stop_tokens(model, ours)) == {end, own.eos_token_id}


def test_a_reply_that_was_cut_is_trained_without_its_end(ours: Any, family: str) -> None:
    dialogue = TrainingDialogue(with_roles(["a", "b c"]), ("none", "open"))
    (run,) = trained_runs(ours, dialogue)
    assert ours.decode(run).strip() == "b c"


@pytest.mark.parametrize("family", ["gemma3", "llama3", "phi3", "qwen2_5", "lfm2", "cohere"])
def test_trl_tags_the_same_tokens(family: str, own: Any, ours: Any) -> None:
    """TRL's template with tags has the ids of the original, and marks what we train; some tags
    hold a line end, or an eos_token, that follows the token at which generation stops."""
    from trl.chat_template_utils import (
        get_training_chat_template,
        is_chat_template_stop_token_trained,
    )

    marked = get_training_chat_template(own)
    assert marked is not None
    assert is_chat_template_stop_token_trained(own, marked)
    messages = with_roles(SAID)
    theirs = own.apply_chat_template(
        [asdict(message) for message in messages], chat_template=marked,
        return_assistant_tokens_mask=True, return_dict=True,
    )  # fmt: skip
    encoded = Encoder(ours).dialogue(TrainingDialogue(messages))
    assert encoded.ids == theirs["input_ids"]
    scored = [segment != NO_LOSS for segment in encoded.segments]
    more = [
        token
        for token, here, there in zip(encoded.ids, scored, theirs["assistant_masks"], strict=True)
        if there and not here
    ]
    assert all(there for here, there in zip(scored, theirs["assistant_masks"], strict=True) if here)
    assert set(own.decode(more).replace("<|eos|>", "")) <= {"\n"}


def test_a_system_message_moves_only_where_the_template_takes_none(
    family: str, own: Any, ours: Any
) -> None:
    messages = (SYSTEM, *with_roles(SAID[:3]))
    ids, _ = Prompts(ours).fit(Request("r", messages, SamplingConfig()))
    if family in ("gemma", "mistral_1"):
        with pytest.raises(Exception, match=r"[Ss]ystem|alternate"):
            as_transformers(own, family, messages, add_generation_prompt=True)
        first, *others = messages[1:]
        messages = (Message("user", f"Be kind.\n\n{first.content}"), *others)
    asked = as_transformers(own, family, messages, add_generation_prompt=True)
    assert ids == asked + own.encode(FORCED.get(family, ""), add_special_tokens=False)
    assert "Be kind." in own.decode(ids)


def test_what_was_typed_is_no_mark(ours: Any) -> None:
    """Neither of the template's tokens, nor a thought that it would cut off."""
    text = "<think>a</think>b<|im_end|><|eot_id|><end_of_turn><|end|><|user|><|return|></s>"
    plain = with_roles(["a", "b", "c", "d"])
    typed = with_roles([text] * 4)
    counts = [
        sum(token in ours.all_special_ids for token in Prompts(ours).render(messages).ids)
        for messages in (plain, typed)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("family", ["gptoss", "qwen3", "qwen3_5_think"])
def test_replies_that_a_template_shows_otherwise_once_others_follow_are_trained_one_by_one(
    ours: Any,
) -> None:
    """So each has before it what the model reads when it is asked for it."""
    messages = with_roles(SAID)
    encoder = Encoder(ours)
    parts = encoder.parts(TrainingDialogue(messages))
    assert [part.messages for part in parts] == [messages[:2], messages]
    assert [part.losses for part in parts] == [("none", "whole"), ("none", "none", "none", "whole")]
    for part in parts:
        encoded = encoder.dialogue(part)
        first = next(n for n, segment in enumerate(encoded.segments) if segment != NO_LOSS)
        ids, _ = Prompts(ours).fit(Request("r", part.messages[:-1], SamplingConfig()))
        assert encoded.ids[:first] == ids


def test_other_dialogues_are_trained_whole(chatml_tokenizer: Any) -> None:
    dialogue = TrainingDialogue((SYSTEM, *with_roles(SAID)))
    for template in ("gemma", "llama3", "phi3"):
        tokenizer = tokenizer_of(chatml_tokenizer, trl_template(template))
        own_template.fix(tokenizer, template, {})
        assert Encoder(tokenizer).parts(dialogue) == [dialogue]


def test_the_date_is_fixed(chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tokenizer = tokenizer_of(chatml_tokenizer, trl_template("llama3_2"))
    own_template.fix(tokenizer, "llama3_2", {})
    assert "Today Date: 26 Jul 2024\n" in Prompts(tokenizer).render(with_roles(SAID)).text


# --- refused --------------------------------------------------------------------------------------

CHATML = packaged_template("chatml")
REFUSED = {
    "one question": (
        "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
        + CHATML,
        r"one question only.*user, assistant, user",
    ),
    "last only": (
        "<|im_start|>{{ messages[-1]['content'] }}<|im_end|>",
        r"does not show each message once.*shown 0, 0, 0, 1 times",
    ),
    "no end": (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        r"'\\nuser: ' behind a reply, without a token that ends it",
    ),
    "changed": (
        CHATML.replace("message['content']", "(message['content'] | replace('a', 'A'))"),
        r"changes what is said: .*A.* against .*a.*, from character 17",
    ),
    "thinks": (
        CHATML.replace("assistant\\n' -}}{%- endif", "assistant\\n<think>\\n' -}}{%- endif"),
        r"starts a reply that is asked for in another way.*assistant\\n<think>\\n' against "
        r".*assistant\\n', from .*model.chat_template_arguments",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_used_is_refused_before_any_work(
    name: str, folder: Path, chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(folder))
    monkeypatch.setenv("SAGE_HOME", str(folder))
    template, why = REFUSED[name]
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config = PipelineConfig(model=ModelConfig(base=str(folder)))
    with pytest.raises(ConfigError, match=rf"(?s){folder}.*{why}"):
        preflight.check(config)
    found = {check.what: check for check in doctor_checks.examine(config)}["chat template"]
    assert not found.ok
    assert re.search(why, found.found, re.DOTALL)
    with pytest.raises(ConfigError, match=f"(?s){why}"):
        prepare_base(folder / "base", config.model)


def test_arguments_that_the_template_has_not_are_refused(chatml_tokenizer: Any) -> None:
    tokenizer = tokenizer_of(chatml_tokenizer, trl_template("qwen3"))
    with pytest.raises(ConfigError, match=r"has thinking, but .* takes .*enable_thinking"):
        own_template.fix(tokenizer, "qwen3", {"thinking": False})
    with pytest.raises(ConfigError, match="has messages, but"):
        own_template.fix(tokenizer, "qwen3", {"messages": []})
    with pytest.raises(ConfigError, match=r"base = 'smollm2.*' takes no arguments"):
        preflight.check(PipelineConfig(model=ModelConfig(chat_template_arguments={"x": 1})))


def test_a_model_without_a_template_is_refused(chatml_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"has no chat template; use an instruct model"):
        own_template.fix(tokenizer, "base", {})


def test_other_ids_than_the_original_gives_are_refused_with_the_difference(
    chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_template, "_set", lambda values: "Hi " if values else "")
    tokenizer = tokenizer_of(chatml_tokenizer, trl_template("qwen3"))
    with pytest.raises(ConfigError, match=r"'Hi<\|im_start.* against '<\|im_start"):
        own_template.fix(tokenizer, "qwen3", {"enable_thinking": False})


@pytest.mark.parametrize("value", [False, None, 3, 1.5, 'it\'s "%}" \n\\ ü 🐕', [1, {"a": None}]])
def test_any_json_value_is_an_argument(value: Any, chatml_tokenizer: Any) -> None:
    template = "{{ 'x is ' + x | string + ' ' + (x is none) | string + '\n' }}" + CHATML
    tokenizer = tokenizer_of(chatml_tokenizer, template)
    own_template.fix(tokenizer, "model", {"x": value})
    text = Prompts(tokenizer).render(with_roles(["hi", "ho"])).text
    assert text.startswith(f"x is {value} {value is None}\n<|im_start|>user")


def test_a_base_folder_keeps_the_template_with_its_arguments(
    folder: Path, chatml_tokenizer: Any
) -> None:
    own = tokenizer_of(chatml_tokenizer, trl_template("qwen3"))
    own.save_pretrained(folder)
    model = ModelConfig(base=str(folder), chat_template_arguments={"enable_thinking": False})
    prepare_base(folder / "base", model)
    messages = with_roles(SAID[:3])
    ids, _ = Prompts(load_tokenizer(folder / "base")).fit(Request("r", messages, SamplingConfig()))
    assert ids == as_transformers(own, "qwen3", messages, add_generation_prompt=True)
    assert ids[-4:] == own.encode("<think>\n\n</think>\n\n", add_special_tokens=False)[-4:]


def test_the_engine_stops_at_the_end_that_only_the_template_names(
    tiny_base: Path, tmp_path: Path, chatml_tokenizer: Any
) -> None:
    own = copy.deepcopy(chatml_tokenizer)
    own.eos_token = "<|endoftext|>"
    model = tmp_path / "model"
    for name in ("config.json", "model.safetensors"):
        model.mkdir(exist_ok=True)
        (model / name).write_bytes((tiny_base / name).read_bytes())
    own.save_pretrained(model)
    config = ModelConfig(base=str(model), dtype="float32", device="cpu")
    prepare_base(tmp_path / "base", config)
    stop = LoadedModel(tmp_path / "base", config).stop
    assert own.convert_tokens_to_ids("<|im_end|>") in stop


# --- the embedded model ---------------------------------------------------------------------------


def test_the_embedded_model_reads_and_learns_what_it_did_in_published_runs(
    chatml_tokenizer: Any,
) -> None:
    """Plain ChatML, byte for byte, without the system message of its maker's template; the loss on
    each reply with ``<|im_end|>`` and not on the line end behind it."""
    gguf = embedded_gguf()
    assert gguf is not None
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = CHATML
    texts = ["Be kind.", "I waited. ", " {u_motivation: a} Oh no!\n", "then?", "Bye 🐕"]
    messages = (Message("system", texts[0]), *with_roles(texts[1:]))
    encoded = Encoder(tokenizer).dialogue(TrainingDialogue(messages))
    roles = ("system", "user", "assistant", "user", "assistant")
    parts = [(f"<|im_start|>{role}\n", f"{text}<|im_end|>", "\n")
             for role, text in zip(roles, texts, strict=True)]  # fmt: skip
    whole = "".join("".join(part) for part in parts)
    assert encoded.ids == tokenizer.encode(whole, add_special_tokens=False)
    scored = [token for token, s in zip(encoded.ids, encoded.segments, strict=True) if s != NO_LOSS]
    assert tokenizer.decode(scored) == parts[2][1] + parts[4][1]
    asked = "".join("".join(part) for part in parts[:4]) + parts[4][0]
    ids, _ = Prompts(tokenizer).fit(Request("r", messages[:4], SamplingConfig()))
    assert ids == tokenizer.encode(asked, add_special_tokens=False)


# --- real tokenizers ------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("real", ["mixtral", "llama2", "llama3", "llama3_1", "gemma3", "qwen3"])
def test_real_tokenizers(real: str, request: pytest.FixtureRequest) -> None:
    folder = request.config.cache.mkdir("tokenizers")  # type: ignore[union-attr]
    own = real_tokenizer(real, folder)
    ours = copy.deepcopy(own)
    own_template.fix(ours, real, ARGUMENTS.get(real, {}))
    test_a_prompt_has_the_ids_that_the_unmodified_template_gives(real, own, ours)
    test_a_dialogue_has_the_ids_that_the_unmodified_template_gives(real, own, ours)
    end = {"llama3_1": "<|eot_id|>"}.get(real) or ENDS[real]
    runs = trained_runs(ours, TrainingDialogue(with_roles(SAID)))
    assert [ours.decode(run[:-1]).strip() for run in runs] == [SAID[1], SAID[3]]
    assert {run[-1] for run in runs} == {ours.convert_tokens_to_ids(end)} == {ours.eos_token_id}
