"""The public interface: what `import sage_core` offers, costs, and says of itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sage_core
import sage_core.config
from sage_core.schema import Candidate
from sage_core.steps import code
from sage_core.steps.selected import Preferences
from sage_core.training import data

ROOT = Path(__file__).parent.parent


def test_every_name_is_loaded_from_where_the_stub_says() -> None:
    for package in (sage_core, sage_core.config):
        for name in package.__all__:
            found = getattr(package, name)
            assert getattr(found, "__name__", name) in (name, "Annotated"), name
            assert name in dir(package)
    assert sage_core.summarise.__module__ == "sage_core.evaluation.winrate"


def test_importing_it_loads_nothing_more() -> None:
    program = (
        "import sys, sage_core; dir(sage_core); sage_core.SageError;"
        "print(*sorted(each for each in sys.modules if each.startswith('sage_core')),"
        "'torch' in sys.modules, 'pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = "sage_core sage_core.errors sage_core.lazy False False"
    assert done.stdout.strip() == loaded


@pytest.mark.parametrize("package", [sage_core, sage_core.config])
def test_other_names_are_attribute_errors(package: object) -> None:
    with pytest.raises(AttributeError, match=r"'sage_core[.\w]*' has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_page_has_every_name_and_no_other() -> None:
    page = (ROOT / "docs" / "library.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sage_core.__all__


def test_no_step_reaches_the_public_names() -> None:
    reached = code.reach("sage_core.steps.report")
    assert "sage_core.lazy" in reached
    assert "sage_core.opened" not in reached
    assert "self_play" not in reached["sage_core"].text


def config_of(base: Path) -> sage_core.PipelineConfig:
    chosen = [f"model.base={base}", "model.device=cpu", "model.dtype=float32"]
    chosen.append("evaluation.selfplay.sampling.max_state_tokens=400")
    return sage_core.load_config("tiny", chosen)


def test_a_chat_prepares_its_base_once_and_steers(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    config = config_of(tiny_base)
    steering = sage_core.Steering.read(force=["emotion=calm"])
    turn = sage_core.open_chat(config, states=True, steering=steering).reply("It rains.")
    assert turn.agent is not None
    assert turn.agent.emotion == "calm"
    (base,) = (tmp_path / "bases").iterdir()
    before = (base / "base.json").stat().st_mtime_ns
    engine = sage_core.open_model(config.model)
    assert (base / "base.json").stat().st_mtime_ns == before
    asked = sage_core.Request(
        "r", (sage_core.Message("user", "Hi."),), sage_core.SamplingConfig(max_new_tokens=3), n=2
    )
    assert len(engine.generate([asked])[0]) == 2
    with pytest.raises(sage_core.ConfigError, match="writes no states"):
        sage_core.open_chat(config, steering=steering)


def test_a_base_that_could_not_be_prepared_is_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(sage_core.ConfigError, match="no-such-model"):
            sage_core.open_model(
                sage_core.ModelConfig(base=str(tmp_path / "no-such-model")), home=tmp_path
            )


def test_one_step_on_a_folder(tmp_path: Path) -> None:
    candidates = (
        Candidate("Oh no.", 1.0, True),
        Candidate("Fine.", 0.0, False),
    )
    turns = (
        sage_core.TrajectoryTurn("user", "It rains.", ()),
        sage_core.TrajectoryTurn("assistant", "Oh no.", candidates),
    )
    row = sage_core.Trajectory("t", "s", "It rains.", "sad", turns)
    (tmp_path / "search").mkdir()
    sage_core.write_rows(tmp_path / "search/trajectories.parquet", [row], sage_core.Trajectory)
    profile = config_of(tmp_path).conversation.agent
    step = Preferences(
        trajectories=(sage_core.ref_of(tmp_path / "search"),),
        profile=profile, rejected="random", max_pairs=0, seed=0,
    )  # fmt: skip
    sage_core.run_step(step, tmp_path / "pairs")
    pairs = sage_core.read_rows(tmp_path / "pairs/preferences.parquet", sage_core.PreferencePair)
    assert pairs == data.preference_pairs([row], profile, 0, "random")
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("Oh no.", "Fine.")]
    with pytest.raises(sage_core.DataError, match="is not empty"):
        sage_core.run_step(step, tmp_path / "pairs")
