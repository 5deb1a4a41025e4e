"""Finding a checkpoint by name or by folder."""

import os
from pathlib import Path
from typing import Any

import pytest

from sage_core.config.model import ModelConfig
from sage_core.errors import ConfigError
from sage_core.storage import ArtifactRef, write_json
from tasks import checkpoints
from tasks.home import store

MODEL = ModelConfig(base="ORG/NAME")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    return tmp_path


def base(name: str) -> ArtifactRef:
    def write(folder: Path) -> None:
        write_json(folder / "base.json", {"base": name, "weights": "."})

    return store().build(f"base-model/{name.replace('/', '-')}", write, {"stage": "base-model"})


def trained(label: str, key: str, on: ArtifactRef, made: int, stage: str = "sft") -> Path:
    manifest: dict[str, Any] = {
        "stage": stage,
        "label": label,
        "parents": {
            "base": [{"path": on.path, "sha256": on.sha256, "bytes": on.bytes}],
        },
    }

    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")

    folder = store().folder(store().build(f"{stage}/{key}", write, manifest))
    os.utime(folder / "manifest.json", (made, made))
    return folder


def test_of_one_name_the_last_one_on_the_base_is_taken(home: Path) -> None:
    wanted, other = base("ORG/NAME"), base("ORG/OTHER")
    trained("m1", "a", wanted, 300)
    last = trained("m1", "b", wanted, 400)
    trained("m1", "c", other, 500)
    trained("m2", "d", wanted, 600)
    found = checkpoints.find("m1", MODEL)
    assert (found.name, found.adapter, found.base) == ("m1", last, store().folder(wanted))


def test_dpo_has_no_label(home: Path) -> None:
    folder = trained("", "a", base("ORG/NAME"), 1, stage="dpo")
    assert checkpoints.find("dpo", MODEL).adapter == folder


def test_a_folder_brings_its_name_and_base(home: Path) -> None:
    other = base("ORG/OTHER")
    folder = trained("m2", "a", other, 1)
    found = checkpoints.find(str(folder), MODEL)
    assert (found.name, found.base) == ("m2", store().folder(other))


def test_raw_and_m0_write_no_states(home: Path) -> None:
    wanted = base("ORG/NAME")
    trained("raw", "a", wanted, 1)
    trained("m1", "b", wanted, 1)
    assert [checkpoints.find(name, MODEL).states for name in ("m0", "raw", "m1")] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("m7", "models there are: m0, m1, raw"),
        ("m1", "ORG/NAME"),  # the one there is stands on another base
    ],
)
def test_what_cannot_be_found_is_said(home: Path, reference: str, words: str) -> None:
    trained("raw", "a", base("ORG/NAME"), 1)
    trained("m1", "b", base("ORG/OTHER"), 1)
    with pytest.raises(ConfigError, match=words):
        checkpoints.find(reference, MODEL)
