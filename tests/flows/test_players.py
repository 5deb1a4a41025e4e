"""Who plays in `sage search`."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.commands import single_stages
from sage_core.config.loading import load_config
from sage_core.errors import ConfigError
from sage_core.search.dialogue import Speaker
from sage_core.search.strategies.strategy import Players
from sage_core.steps.base import Model
from sage_core.steps.search import players_of
from tasks import checkpoints
from tasks.checkpoints import Checkpoint
from tasks.home import store

VLLM = (
    "search.selfplay.agent_engine.kind=vllm",
    "search.selfplay.user_engine.kind=vllm",
    "search.selector.engine.kind=vllm",
)


@pytest.fixture
def two_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """m1 and m2 over two copies of one base, and a preset's that is a third."""
    for name in ("m1", "m2", "raw"):
        (tmp_path / name).mkdir()
        (tmp_path / f"base-of-{name}").mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_text(name)

    def find(name: str, model: object) -> Checkpoint:
        return Checkpoint(name, tmp_path / name, tmp_path / f"base-of-{name}")

    monkeypatch.setattr(checkpoints, "find", find)
    return tmp_path


class Asked:
    """A context that keeps what engines it is asked for."""

    def __init__(self) -> None:
        self.models: list[Model] = []

    def engine(self, settings: object, model: Model, config: object) -> "Named":
        self.models.append(model)
        return Named(model)


@dataclass(frozen=True)
class Named:
    model: Model

    @property
    def name(self) -> str:
        return self.model.name


def players(folder: Path, agent: str, user: str, *settings: str) -> tuple[Players, list[Model]]:
    config = load_config("tiny", settings)
    context = Asked()
    models = single_stages.models_to_play(config, agent, user)
    found = players_of(
        context,  # type: ignore[arg-type]
        *models, config.search, config.conversation, config.model, config.seed,
    )  # fmt: skip
    return found, context.models


def test_agent_user_and_selector_share_a_base(two_homes: Path) -> None:
    """A managed vLLM server holds one; the preset's settings may make another."""
    _, (agent, user, selecting) = players(two_homes, "m1", "m1", *VLLM)
    base, adapter = (store().folder(ref) for ref in (agent.base, agent.adapter) if ref)
    assert (base, adapter) == (two_homes / "base-of-m1", two_homes / "m1")
    assert user == agent
    assert (selecting.base, selecting.adapter) == (agent.base, None)


def test_each_speaker_has_its_own_checkpoint_profile_and_states(two_homes: Path) -> None:
    found, (agent, user, *_) = players(two_homes, "raw", "m1", "seed=7")
    config = load_config("tiny")
    profiles = config.conversation
    assert [Path(each.adapter.path) for each in (agent, user) if each.adapter] == [
        two_homes / "raw",
        two_homes / "m1",
    ]
    assert found.agent == Speaker("raw", Named(agent), False, profiles.agent)  # type: ignore[arg-type]
    assert found.user == Speaker("m1", Named(user), True, profiles.user)  # type: ignore[arg-type]
    assert (found.config, found.seed) == (config.search.selfplay, 7)


def test_two_bases_on_one_server_are_refused(two_homes: Path) -> None:
    with pytest.raises(ConfigError, match=r"two copies .*user_engine\.kind=transformers"):
        single_stages.models_to_play(load_config("tiny", VLLM), "m1", "m2")
