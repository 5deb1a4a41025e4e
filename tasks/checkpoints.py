"""Finding a model: by its name in the SAGE home, or by its folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_core.config.model import ModelConfig
from sage_core.engines.loading import BASE
from sage_core.errors import ConfigError
from sage_core.steps.base import Model, writes_states
from sage_core.steps.given import GivenTable
from sage_core.storage import MANIFEST, ArtifactRef, content_hash, read_json
from tasks.home import store
from tasks.lineage import ancestry
from tasks.mirror import MirroredStore

_ADAPTER = "adapter_config.json"
_M0 = "m0"
_PROMOTED = ("champion", "candidate")


@dataclass(frozen=True)
class Checkpoint:
    """A model: its name, the folder of its adapter (None: m0 itself) and that of its base."""

    name: str
    adapter: Path | None
    base: Path

    @property
    def states(self) -> bool:
        """Whether it writes State-Action Chains."""
        return writes_states(self.name)


def find(reference: str, model: ModelConfig) -> Checkpoint:
    """The model ``reference``: a name such as m0, m1 or dpo, ``champion`` or ``candidate`` of the
    registry, or a folder with an adapter.

    Of several with one name, the one made last whose base is ``model.base`` counts. The base of a
    folder is the one that its manifest names, if the home has it, else ``model.base``.

    Raises:
        ConfigError: there is none, or its base is not in the home.
    """
    folder = Path(reference)
    if (folder / _ADAPTER).is_file():
        record = _record(folder)
        base = _base_of(record) or _newest(_named(_M0, model))
        if base is None:
            raise ConfigError(
                f"the base {model.base} of '{reference}' is not in '{store().root.parent}'; set "
                "SAGE_HOME to the home where it was trained, or run the pipeline in this one"
            )
        return Checkpoint(_name(record) or folder.resolve().name, folder, base)
    path = _promoted(reference) if reference in _PROMOTED else _newest(_named(reference, model))
    if path is None:
        names = ", ".join(sorted({_name(record) for _, record in _models()}))
        raise ConfigError(
            f"'{reference}' is not a model on {model.base} in '{store().root.parent}' and no "
            f"folder with {_ADAPTER}; models there are: {names or 'none yet, see `sage run`'}. "
            "Choose one of them, the folder of another, or with --preset and --set model.base the "
            "base it was trained on"
        )
    if reference == _M0:
        return Checkpoint(_M0, None, path)
    base = _base_of(_record(path))
    assert base is not None  # _named has seen it
    return Checkpoint(reference, path, base)


def by_hash(sha256: str) -> Path | None:
    """The folder of the model whose artefact has this hash, if the home or its mirror has it."""
    for path, record in _models():
        if record["reference"]["sha256"] == sha256:
            return path
    kept_in = store()
    return kept_in.fetch_model(sha256) if isinstance(kept_in, MirroredStore) else None


def of_artifact(folder: Path, name: str) -> Model:
    """The model in an artefact's folder, m0 or a trained one, under another name.

    Raises:
        ConfigError: its base is not in the home.
    """
    if (folder / BASE).is_file():
        return Model(name, reference(folder))
    base = _base_of(_record(folder))
    if base is None:
        raise ConfigError(f"the base of the model in '{folder}' is not in the home any more")
    return Model(name, reference(base), reference(folder))


def model_of(checkpoint: Checkpoint) -> Model:
    """The checkpoint as an input of steps."""
    adapter = reference(checkpoint.adapter) if checkpoint.adapter else None
    return Model(checkpoint.name, reference(checkpoint.base), adapter)


def reference(folder: Path) -> ArtifactRef:
    """A model's folder as an artefact, wherever it is.

    Raises:
        ConfigError: it is not a folder.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is not the folder of a model; give one with {_ADAPTER}")
    known = _record(folder).get("reference")
    if known and store().folder(ref := ArtifactRef(**known)).resolve() == folder:
        return ref
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ArtifactRef(str(folder), content_hash(folder), size)


def _promoted(alias: str) -> Path | None:
    from tasks.registry import Registry  # imports MLflow

    return by_hash(Registry().find(alias).sha256)


def _named(name: str, model: ModelConfig) -> Iterator[Path]:
    for path, record in _models():
        base = path if name == _M0 else _base_of(record)
        if _name(record) == name and base and read_json(base / BASE)["base"] == model.base:
            yield path


def _newest(paths: Iterator[Path]) -> Path | None:
    return max(paths, key=lambda path: (path / MANIFEST).stat().st_mtime, default=None)


def _models() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and the manifest of every model that a run has made in the home; not of those that
    `sage train` has made of given files, which are where its user put them."""
    for step in ("base-model", "sft", "dpo"):
        for path in sorted((store().root / step).glob(f"*/{MANIFEST}")):
            if not any(
                record.get("stage") == GivenTable.name for _, record in ancestry(path.parent)
            ):
                yield path.parent, _record(path.parent)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    record: dict[str, Any] = read_json(path) if path.is_file() else {}
    return record


def _name(record: dict[str, Any]) -> str:
    """The model's name: what its stage was labelled with. The pipeline makes one
    base and one DPO model, and needs no label for them."""
    if record.get("stage") == "base-model":
        return _M0
    return str(record.get("label", "")) or ("dpo" if record.get("stage") == "dpo" else "")


def _base_of(record: dict[str, Any]) -> Path | None:
    for parent in record.get("parents", {}).get("base", []):
        folder = store().folder(ArtifactRef(**parent))
        if (folder / BASE).is_file():
            return folder
    return None
