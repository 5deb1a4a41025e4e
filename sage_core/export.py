"""A model as a folder that transformers, peft and vLLM load, with its card; and onto a hub.

Two forms: the adapter alone, which names its base, or the adapter merged into the base. m0 has no
adapter and is always whole. The tokenizer is beside either, with the chat template that the model
was trained under. Of the embedded base, which was dequantised from 4 bits, no hub has these
weights; so an adapter over it names the original, and its card says what the difference is.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_core.config.conversation import ProfileConfig
from sage_core.config.model import EMBEDDED_MODEL, ModelConfig
from sage_core.conversation import consent
from sage_core.engines.loading import load_model, load_tokenizer, stop_tokens
from sage_core.errors import ConfigError, EngineError
from sage_core.keys import check_key, redact
from sage_core.packaged import packaged
from sage_core.sac import outline
from sage_core.storage import read_json, write_json

CARD = "README.md"
DATA_CARD = "data_card.md"
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")
_UNKNOWN = "other"
_LICENCES = {  # as on the models' own cards
    EMBEDDED_MODEL: "apache-2.0",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "apache-2.0",
}
_HUB_NAMES = {EMBEDDED_MODEL: "HuggingFaceTB/SmolLM2-135M-Instruct"}


@dataclass(frozen=True)
class Step:
    """A step of a model's lineage, as its manifest tells it."""

    stage: str
    label: str
    config_hash: str
    code_hash: str
    seed: int | None


@dataclass(frozen=True)
class Exported:
    """What the card tells of a model.

    Attributes:
        states: whether it writes State-Action Chains.
        merged: whether the folder holds the whole model.
        data_card: the card of the corpus it was trained on; '' for m0 and where it is not known.
        lineage: the steps it was made by, the first one first.
        figures: rollouts on held-out situations, of every model of the run
            (:class:`sage_core.evaluation.metrics.ModelMetrics` as JSON values); empty: no run.
        win_rates: of the pairs with this model
            (:class:`sage_core.evaluation.winrate.PairSummary` as JSON values).
    """

    name: str
    base: str
    states: bool
    merged: bool
    profile: ProfileConfig
    data_card: str
    lineage: tuple[Step, ...]
    figures: Sequence[Mapping[str, Any]]
    win_rates: Sequence[Mapping[str, Any]]


def export(
    folder: Path, base: Path, adapter: Path | None, config: ModelConfig, told: Exported
) -> None:
    """Fill ``folder``: weights, tokenizer with chat template, and card; the weights of a whole
    model in ``config.dtype``.

    Raises:
        EngineError: the base's weights cannot be loaded.
    """
    tokenizer = load_tokenizer(base)
    if told.merged:
        model: Any = load_model(base, config)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        stop = stop_tokens(model, tokenizer)
        model.generation_config.eos_token_id = stop if len(stop) > 1 else stop[0]
        model.save_pretrained(folder)
    else:
        assert adapter is not None  # m0 is merged
        for name in _ADAPTER_FILES:
            shutil.copyfile(adapter / name, folder / name)
        record = read_json(folder / ADAPTER_CONFIG)
        record["base_model_name_or_path"] = base_name(told.base)
        write_json(folder / ADAPTER_CONFIG, record)
    tokenizer.save_pretrained(folder)
    if told.data_card:
        (folder / DATA_CARD).write_text(told.data_card, encoding="utf-8")
    (folder / CARD).write_text(card(told), encoding="utf-8")
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / CARD, weights)  # safetensors lets nobody but the owner read them


def base_name(base: str) -> str:
    """The base as others find it: its name on the hub, or the absolute path of its folder."""
    if Path(base).is_dir():
        return str(Path(base).resolve())
    return _HUB_NAMES.get(base, base)


def card(told: Exported) -> str:
    """The model card, with its metadata."""
    from huggingface_hub import ModelCard, ModelCardData, RepoCard

    data_licence = RepoCard(told.data_card).data.get("license") if told.data_card else None
    on_hub = None if Path(told.base).is_dir() else base_name(told.base)
    metadata = ModelCardData(
        base_model=on_hub,
        license=_LICENCES.get(told.base, _UNKNOWN),
        language="en",
        library_name="transformers" if told.merged else "peft",
        pipeline_tag="text-generation",
        tags=["sage", "dialogue", *([] if told.merged else ["lora"])],
    )
    made = ModelCard.from_template(
        metadata,
        template_str=packaged("templates/model_card.md.jinja"),
        told=told,
        consent=consent(told.profile, states=told.states),
        outline=outline(),
        base_name=on_hub or told.base,
        base_licence=_LICENCES.get(told.base),
        data_licence=data_licence,
        embedded=told.base == EMBEDDED_MODEL,
    )
    return str(made)


def check_push(repository: str) -> str:
    """The token to push to ``repository`` with, before anything is made.

    Raises:
        ConfigError: the name is none, there is no token or none that can be sent, or the hub is
            switched off.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push '{repository}' is not a name on a hub: {error}") from None
    if repository.count("/") != 1:
        raise ConfigError(f"--push '{repository}' is not ORG/NAME; name the owner as well")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("--push needs the hub, but HF_HUB_OFFLINE is set; unset it")
    token = get_token()
    if not token:
        raise ConfigError(
            "--push needs a token of the hub with the right to write; run `hf auth login`, or set "
            "HF_TOKEN"
        )
    return check_key(token, "HF_TOKEN, or what `hf auth login` saved,")


def push(folder: Path, repository: str, token: str) -> str:
    """Upload a folder to a repository of the hub, which is made (private) if it is not there; its
    address.

    Raises:
        EngineError: the hub cannot be reached, or refuses.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="sage export")
    except (HTTPError, OSError) as error:
        raise EngineError(
            f"'{repository}' could not be pushed: {redact(str(error), token)}; the export is in "
            f"'{folder}': push it with `hf upload {repository} {folder}`"
        ) from None
    return str(address)
