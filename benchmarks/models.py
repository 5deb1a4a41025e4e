"""``make models``: what works for small random models of many architectures, each checked against
transformers, TRL and peft, as a table in the documentation.

    python -m benchmarks.models [MODEL_TYPE ...]

Given names replace these rows of the last table. A model is *right* if, in float32, its greedy
replies are the token ids of ``generate``, scores of options are those of a forward pass, and the
loss and the gradient of an SFT batch and the log-probabilities of pairs are those of a padded batch
under transformers and peft. It may be refused, with a reason; what is accepted has to be right.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.harness import RESULTS
from benchmarks.small_models import MODELS, save_small_model
from sage_core.config.conversation import ProfileConfig
from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, SFTConfig, TrainingConfig
from sage_core.engines.base import Request
from sage_core.engines.loading import prepare_base
from sage_core.errors import SageError
from sage_core.schema import Message, PreferencePair, TrainingDialogue, with_roles

TABLE = Path(__file__).parent.parent / "docs/models_table.md"
ROWS = RESULTS / "models.json"
_TEXTS = ("hi", "I waited an hour for the bus again!", "My dog ran away last night. Oh no.")
_OPTIONS = ("A", "My dog ran", "My dog")
_MODEL = ModelConfig(dtype="float32", device="cpu")
_NEW_TOKENS = 16
_SCORES, _LOSS, _GRADIENT, _EXPORT = 2e-3, 1e-4, 1e-3, 1e-2  # nats; relative; of the logits


@dataclass(frozen=True)
class Result:
    """A row of the table.

    Attributes:
        refused: why the model is refused; all else is empty then.
        generation, training: how it generates and trains, and why not in the fastest way.
        lora: the modules that are adapted by default, and in how many layers.
        wrong: what differs from the references; empty: it is right.
        ids: greedy replies with the same token ids, of all.
        scores: the largest difference of an option's log-probability, in nats.
        loss, gradient: relative differences of an SFT batch.
        pairs: the largest difference of a reply's log-probability, in nats.
        trl: the same loss by TRL's own output layer: relative difference from transformers.
        seconds: all of this took.
    """

    model_type: str
    refused: str = ""
    generation: str = ""
    training: str = ""
    lora: str = ""
    export: str = ""
    wrong: tuple[str, ...] = ()
    ids: tuple[int, int] = (0, 0)
    scores: float = 0.0
    loss: float = 0.0
    gradient: float = 0.0
    pairs: float = 0.0
    trl: float | None = None
    seconds: float = 0.0


def check(model_type: str) -> Result:
    """Check one architecture."""
    began = time.monotonic()
    torch.manual_seed(0)
    with TemporaryDirectory() as scratch:
        source, base = Path(scratch) / "source", Path(scratch) / "base"
        base.mkdir()
        save_small_model(model_type, source)
        found: dict[str, Any] = {}
        try:
            prepare_base(base, _MODEL.model_copy(update={"base": str(source)}))
            found |= _generation(source, base)
            found |= _training(source, base, Path(scratch))
        except SageError as error:
            found["refused"] = str(error).replace(str(source), "FOLDER")
    wrong = tuple(_wrong(found)) if not found.get("refused") else ()
    seconds = round(time.monotonic() - began, 1)
    return Result(model_type, **found, wrong=wrong, seconds=seconds)


def _wrong(found: dict[str, Any]) -> Iterator[str]:
    same, replies = found["ids"]
    if same < replies:
        yield f"{replies - same} of {replies} replies"
    for name, limit in (("scores", _SCORES), ("pairs", _SCORES), ("loss", _LOSS),
                        ("gradient", _GRADIENT)):  # fmt: skip
        if not found[name] <= limit:
            yield f"{name} by {found[name]:.2g}"
    if found["export"] != "yes":
        yield f"export: {found['export']}"


def _reference(source: Path) -> Any:
    """The model as transformers loads it: one without the attention of PyTorch loads as eager."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()


def _generation(source: Path, base: Path) -> dict[str, Any]:
    from sage_core.engines.in_process import TransformersEngine

    sampling = SamplingConfig(
        temperature=0, top_k=0, repetition_penalty=1, max_new_tokens=_NEW_TOKENS
    )
    requests = [Request(text, (Message("user", text),), sampling, n=2) for text in _TEXTS]
    engine = TransformersEngine(base, None, _MODEL)
    answers = engine.generate(requests)
    scores = engine.choose(requests, [_OPTIONS] * len(requests))
    loaded = engine._loaded
    reference = _reference(source)
    same, worst = 0, 0.0
    for request, replies, row in zip(requests, answers, scores, strict=True):
        prompt = loaded.prompts.fit(request)[0]
        expected = _greedy(reference, prompt, loaded.stop)
        same += sum(list(reply.token_ids) == expected for reply in replies)
        for option, score in zip(_OPTIONS, row, strict=True):
            tokens = loaded.prompts.option("", option)
            with torch.no_grad():
                ids = torch.tensor([prompt + tokens])
                logits = reference(ids, use_cache=False).logits[0].log_softmax(-1)
            at = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
            plain = sum(float(logits[a, token]) for a, token in zip(at, tokens, strict=True))
            worst = max(worst, abs(plain - score))
    return {
        "generation": str(loaded.generation),
        "ids": (same, 2 * len(requests)),
        "scores": worst,
    }


def _greedy(model: Any, prompt: list[int], stop: set[int]) -> list[int]:
    with torch.no_grad():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=_NEW_TOKENS,
        )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return next((tokens[:at] for at, token in enumerate(tokens) if token in stop), tokens)


def _examples() -> list[TrainingDialogue]:
    return [
        TrainingDialogue(
            with_roles(
                [f"I waited {n} hours" + " again" * n, "Oh no" + ", what happened" * (n % 3)]
            )
        )
        for n in range(4)
    ]


def _pairs() -> list[PreferencePair]:
    return [
        PreferencePair((Message("user", "My dog ran away" + "!" * n),), "Oh no." * n, "What then?")
        for n in (1, 2, 3)
    ]


def _training(source: Path, base: Path, scratch: Path) -> dict[str, Any]:
    """An SFT batch and DPO's pairs under an adapter that says something already."""
    from sage_core.engines.loading import load_tokenizer
    from sage_core.training import adapters
    from sage_core.training.dpo import DPO
    from sage_core.training.job import Job, no_progress
    from sage_core.training.method import Training
    from sage_core.training.preference_trainer import PreferenceCollator
    from sage_core.training.self_test import passes_of
    from sage_core.training.sft import SFT
    from sage_core.training.tokens import Encoder
    from sage_core.training.trainers import trainer_of

    tokenizer: Any = load_tokenizer(base)
    job = Job("m1", base, None, _MODEL, LoraConfig(rank=4, alpha=8), TrainingConfig(), 0)
    reached = str(adapters.check(job)).removeprefix("LoRA on ")
    model = adapters.start(job)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    passes = passes_of(model.get_base_model(), tokenizer, job.training)
    encoder, settings = Encoder(tokenizer), SFTConfig()
    usable = SFT().fitting(_examples(), settings, encoder.length)
    training = Training.of(SFT(), usable, settings, encoder)
    trainer: Any = trainer_of(
        SFT(), training, model, tokenizer, job, scratch / "work", no_progress, packed=passes.packed
    )
    adapter = scratch / "adapter"
    adapter.mkdir()
    trained = scratch / "trained"
    trainer.save_model(str(trained))
    adapters.save(adapter, trained, job)

    model.eval()
    batch = trainer.data_collator([trainer.train_dataset[at] for at in range(len(training.rows))])
    collator = PreferenceCollator(tokenizer.pad_token_id)
    collator.packed = passes.packed
    pairs = collator([{**DPO().encode(each, encoder), "row": 0} for each in _pairs()])
    loss, gradients = _loss(model, lambda: trainer.compute_loss(model, dict(batch)))
    labels = pairs["input_ids"].masked_fill(pairs["completion_mask"] == 0, -100)
    inputs = {"input_ids": pairs["input_ids"], "attention_mask": pairs["attention_mask"]}
    shared = {"shared": pairs["shared"]} if passes.packed else {}
    with torch.no_grad():
        ours = model(**inputs, **shared, labels=labels, fused_lm_head=True).log_probs.sum(1)
    plain = _adapted(source, adapter)
    padded = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    expected, by_peft = _loss(plain, lambda: plain(**padded, use_cache=False).loss)
    with torch.no_grad():
        logits = plain(**inputs, use_cache=False).logits[:, :-1].log_softmax(-1)
    chosen = labels[:, 1:].clamp(min=0)
    theirs = logits.gather(2, chosen[..., None])[..., 0].masked_fill(labels[:, 1:] == -100, 0)
    norm = sum(float(each.norm()) ** 2 for each in by_peft) ** 0.5
    apart = sum(float((a - b).norm()) ** 2 for a, b in zip(gradients, by_peft, strict=True)) ** 0.5
    return {
        "training": str(passes),
        "lora": reached,
        "loss": abs(loss - expected) / expected,
        "gradient": apart / norm,
        "pairs": float((ours - theirs.sum(1)).abs().max()),
        "trl": _trl_loss(source, adapter, padded, expected),
        "export": _export(base, adapter, source, scratch / "export", padded),
    }


def _adapted(source: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(_reference(source), adapter, is_trainable=True).eval()


def _loss(model: Any, compute: Any) -> tuple[float, list[torch.Tensor]]:
    """A loss and its gradients by the adapter's weights, in the order of their names."""
    model.zero_grad()
    loss = compute()
    loss.backward()
    named = sorted(model.named_parameters(), key=lambda each: each[0])
    gradients = [
        each.grad.clone() if each.grad is not None else torch.zeros_like(each)
        for name, each in named
        if "lora_" in name
    ]
    return float(loss.detach()), gradients


def _trl_loss(source: Path, adapter: Path, padded: dict[str, Any], expected: float) -> float | None:
    """The relative difference of TRL's loss; None where TRL's output layer fails."""
    from trl.trainer.utils import add_fused_lm_head

    model = _adapted(source, adapter)
    try:
        add_fused_lm_head(model.get_base_model())
        with torch.no_grad():
            found = float(model(**padded, fused_lm_head=True).loss)
    except Exception:  # whatever it does not foresee
        return None
    return abs(found - expected) / expected


def _export(base: Path, adapter: Path, source: Path, folder: Path, padded: dict[str, Any]) -> str:
    """Whether both forms of an export load and give the logits of base and adapter."""
    from transformers import AutoModelForCausalLM

    from sage_core.export import Exported, export

    ids = padded["input_ids"][:1, :12]
    with torch.no_grad():
        expected = _adapted(source, adapter)(input_ids=ids, use_cache=False).logits
    for merged in (False, True):
        told = Exported("m1", str(source), True, merged, ProfileConfig(), "", (), (), ())
        out = folder / str(merged)
        out.mkdir(parents=True)
        export(out, base, adapter, _MODEL, told)
        model: Any
        if merged:
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        else:
            model = _adapted(source, out)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        if not (apart := float((logits - expected).abs().max())) <= _EXPORT:
            return f"{'merged' if merged else 'adapter'} differs by {apart:.2g}"
    return "yes"


def table(results: Sequence[Result]) -> str:
    """The page of the documentation."""
    right = [each for each in results if not each.refused and not each.wrong]
    refused = [each for each in results if each.refused]
    wrong = [each for each in results if each.wrong]
    shared = sum(each.generation.startswith("shared") for each in right)
    packed = sum(each.training == "packed" for each in right)
    lines = [
        "# Models that were checked",
        "",
        "`make models` writes this page. It builds a small random model of each architecture, "
        "offline, and compares it in float32 with transformers (`generate`, forward pass), peft "
        "and TRL. The real models of a family differ in size and weights only, which the "
        "[self-test](models.md#the-self-test) at load covers.",
        "",
        f"{len(results)} architectures: {len(right)} right, {len(refused)} refused with a reason, "
        f"{len(wrong)} wrong. Of the right ones {shared} share prompts and {packed} train packed; "
        "the others take the plain path of transformers, which is slower.",
        "",
    ]
    if right:
        lines += [
            f"Largest differences of the right ones: {max(e.scores for e in right):.1g} nats in a "
            f"score, {max(e.pairs for e in right):.1g} nats in a reply's log-probability, "
            f"{max(e.loss for e in right):.1g} of a loss, "
            f"{max(e.gradient for e in right):.1g} of a gradient. All greedy replies have the "
            "same tokens.",
            "",
        ]
    lines += [
        "| architecture | generation | training | default LoRA targets | export | gradient, "
        "relative difference | TRL's own loss |",
        "| --- | --- | --- | --- | --- | ---: | --- |",
        *(_line(each) for each in results),
    ]
    return "\n".join([*lines, ""])


def _line(result: Result) -> str:
    if result.refused:
        first = result.refused.partition(". ")[0]
        cells = [f"refused: {first[:160]}", "", "", "", "", ""]
    elif result.wrong:
        cells = [f"WRONG: {'; '.join(result.wrong)}", result.training, result.lora, "", "", ""]
    else:
        trl = (
            "fails"
            if result.trl is None
            else "same"
            if result.trl < 1e-4
            else f"{result.trl:.1g} off"
        )
        cells = [
            result.generation.partition(" (")[0].replace(" by transformers", ""),
            result.training.partition(" (")[0],
            result.lora.rpartition(" in ")[2],
            result.export,
            f"{result.gradient:.0e}",
            trl,
        ]
    return f"| {result.model_type} | " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def main(names: Sequence[str]) -> None:
    """Check ``names``, or all; write the table; exit with 1 if a model is accepted and wrong."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    rows: dict[str, Any] = json.loads(ROWS.read_text("utf-8")) if names and ROWS.exists() else {}
    for name in names or MODELS:
        result = check(name)
        rows[name] = asdict(result)
        verdict = "refused" if result.refused else "WRONG" if result.wrong else "right"
        told = (
            result.refused or "; ".join(result.wrong) or f"{result.generation}; {result.training}"
        )
        print(f"{verdict:8} {name:20} {result.seconds:5.1f} s  {told}", flush=True)  # noqa: T201
    ROWS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    results = [Result(**rows[name]) for name in sorted(rows)]
    TABLE.write_text(table(results), encoding="utf-8")
    wrong = [each.model_type for each in results if each.wrong]
    refused = sum(bool(each.refused) for each in results)
    print(  # noqa: T201
        f"{len(results) - len(wrong) - refused} of {len(results)} architectures right, {refused} "
        f"refused, wrong: {', '.join(wrong) or 'none'}"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
