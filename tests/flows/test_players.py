"""Who plays in `sage search`."""

from pathlib import Path

import pytest

from flows import single
from sage_core.config import load_config
from sage_core.errors import ConfigError
from sage_core.search.dialogue import Speaker
from tasks import checkpoints, engines
from tasks.checkpoints import Checkpoint

VLLM = (
    "search.selfplay.agent_engine.kind=vllm",
    "search.selfplay.user_engine.kind=vllm",
    "search.selector.engine.kind=vllm",
)


@pytest.fixture
def two_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """m1 and m2 over two copies of one base, and a preset's that is a third."""
    for name in ("m1", "m2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_text(name)

    def find(name: str, model: object) -> Checkpoint:
        return Checkpoint(name, tmp_path / name, tmp_path / f"base-of-{name}")

    monkeypatch.setattr(checkpoints, "find", find)
    return tmp_path


def test_agent_user_and_selector_share_a_base(
    two_homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A managed vLLM server holds one; the preset's settings may make another."""
    asked: list[tuple[Path, Path | None]] = []

    class Named:
        name = "m1"

    def made(settings: object, base: Path, model: object, adapter: Path | None) -> Named:
        asked.append((base, adapter))
        return Named()

    monkeypatch.setattr(engines, "engine_of", made)
    single._players(load_config("tiny", VLLM), "m1", "m1", two_homes)
    base = two_homes / "base-of-m1"
    assert asked == [(base, two_homes / "m1"), (base, two_homes / "m1"), (base, None)]


def test_each_speaker_has_its_own_checkpoint_profile_and_states(
    two_homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(settings: object, base: Path, model: object, adapter: Path | None) -> Path | None:
        return adapter

    monkeypatch.setattr(engines, "engine_of", made)
    config = load_config("tiny", ("seed=7",))
    players, _ = single._players(config, "raw", "m1", two_homes)
    profiles = config.conversation
    assert players.agent == Speaker("raw", two_homes / "raw", False, profiles.agent)  # type: ignore[arg-type]
    assert players.user == Speaker("m1", two_homes / "m1", True, profiles.user)  # type: ignore[arg-type]
    assert (players.config, players.seed) == (config.search.selfplay, 7)


def test_two_bases_on_one_server_are_refused(two_homes: Path) -> None:
    with pytest.raises(ConfigError, match=r"two copies .*user_engine\.kind=transformers"):
        single._players(load_config("tiny", VLLM), "m1", "m2", two_homes)
