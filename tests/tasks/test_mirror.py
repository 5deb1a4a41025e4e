"""The copy of a store elsewhere: here in another folder, in tests/integration on S3."""

from dataclasses import asdict
from pathlib import Path

import pytest

from sage_core.errors import ArtifactError, ConfigError
from sage_core.storage import MANIFEST, ArtifactRef, ArtifactStore
from tasks.mirror import VARIABLE, Mirror, MirroredStore, open_store


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror((tmp_path / "mirror").as_uri())


def make(store: ArtifactStore, name: str, text: str, *parents: ArtifactRef) -> ArtifactRef:
    def write(folder: Path) -> None:
        (folder / "text").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "more").write_bytes(b"\x00" * 10)

    refs = {"parents": [asdict(parent) for parent in parents]}
    return store.build(name, write, {"stage": name.partition("/")[0], "parents": refs})


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_empty_store_finds_what_another_has_made(tmp_path: Path, mirror: Mirror) -> None:
    here, there = (MirroredStore(tmp_path / name, mirror) for name in ("here", "there"))
    ref = make(here, "stage/0", "one")
    assert there.find("stage/0") == ref
    assert files(there.folder(ref)) == files(here.folder(ref))
    assert there.find("stage/1") is None
    third = MirroredStore(tmp_path / "third", mirror)
    assert third.verify(ref)
    assert not third.verify(ArtifactRef("stage/0", "another", ref.bytes))


def test_a_damaged_artefact_comes_from_the_mirror(tmp_path: Path, mirror: Mirror) -> None:
    store = MirroredStore(tmp_path / "here", mirror)
    ref = make(store, "stage/0", "one")
    (store.folder(ref) / "text").write_text("two")
    assert store.verify(ref)
    assert (store.folder(ref) / "text").read_text() == "one"


def test_what_was_made_without_the_mirror_is_copied_when_it_is_used(
    tmp_path: Path, mirror: Mirror
) -> None:
    ref = make(ArtifactStore(tmp_path / "here"), "stage/0", "one")
    assert mirror.manifest("stage/0") is None
    assert MirroredStore(tmp_path / "here", mirror).verify(ref)
    assert files(tmp_path / "mirror" / "stage" / "0") == files(tmp_path / "here" / "stage" / "0")


def test_what_lies_elsewhere_is_not_copied(tmp_path: Path, mirror: Mirror) -> None:
    elsewhere = make(ArtifactStore(tmp_path / "elsewhere"), "stage/0", "one")
    folder = str(tmp_path / "elsewhere" / "stage" / "0")
    given = ArtifactStore(tmp_path / "here").build(folder, lambda _: None, {})
    store = MirroredStore(tmp_path / "here", mirror)
    assert given.path == folder
    assert store.verify(given)
    assert not store.verify(elsewhere)
    assert not (tmp_path / "mirror").exists()


def test_a_copy_that_was_cut_short_is_not_taken(tmp_path: Path, mirror: Mirror) -> None:
    here = MirroredStore(tmp_path / "here", mirror)
    ref = make(here, "stage/0", "one")
    (tmp_path / "mirror" / "stage" / "0" / MANIFEST).unlink()
    there = MirroredStore(tmp_path / "there", mirror)
    assert there.find("stage/0") is None
    assert here.verify(ref)  # the next use completes it
    assert there.find("stage/0") == ref


def test_a_damaged_copy_is_not_taken(tmp_path: Path, mirror: Mirror) -> None:
    make(MirroredStore(tmp_path / "here", mirror), "stage/0", "one")
    (tmp_path / "mirror" / "stage" / "0" / "text").write_text("two")
    assert MirroredStore(tmp_path / "there", mirror).find("stage/0") is None


def test_a_model_brings_what_it_was_made_from(tmp_path: Path, mirror: Mirror) -> None:
    here = MirroredStore(tmp_path / "here", mirror)
    corpus = make(here, "corpus/0", "words")
    parent = make(here, "sft/0", "m1", corpus)
    other = make(here, "sft/1", "raw", corpus)
    model = make(here, "dpo/0", "dpo", parent)
    there = MirroredStore(tmp_path / "there", mirror)
    assert there.fetch_model(model.sha256) == tmp_path / "there" / "dpo" / "0"
    assert all((there.folder(ref) / MANIFEST).is_file() for ref in (corpus, parent, model))
    assert not there.folder(other).exists()
    assert there.fetch_model("unknown") is None


def test_the_environment_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert type(open_store(tmp_path)) is ArtifactStore
    monkeypatch.setenv(VARIABLE, (tmp_path / "mirror").as_uri())
    assert isinstance(open_store(tmp_path), MirroredStore)
    monkeypatch.setenv(VARIABLE, "s4://bucket")
    with pytest.raises(ConfigError, match="'s4://bucket' is no address of a mirror"):
        open_store(tmp_path)


def test_a_mirror_that_refuses_ends_the_stage_and_keeps_its_work(tmp_path: Path) -> None:
    (tmp_path / "mirror").write_text("a file")
    store = MirroredStore(tmp_path / "here", Mirror((tmp_path / "mirror").as_uri()))
    with pytest.raises(ArtifactError, match="Finished work is kept"):
        make(store, "stage/0", "one")
    assert ArtifactStore(tmp_path / "here").find("stage/0")
