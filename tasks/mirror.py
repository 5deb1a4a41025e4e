"""A copy of every finished artefact elsewhere: on S3, or any file system that Arrow knows.

Stages write and read local folders, which they rename and map into memory. So the store stays
local, and a mirror (``SAGE_MIRROR``) is written when an artefact is finished and read when one is
not there: a new machine with an empty home goes on where another one was.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from pyarrow import ArrowException, fs

from sage_core.errors import ArtifactError, ConfigError
from sage_core.storage import MANIFEST, ArtifactRef, ArtifactStore, read_json

VARIABLE = "SAGE_MIRROR"


class Mirror:
    """The copies below an address such as ``s3://bucket/folder``; credentials are where AWS's tools
    look for them, and ``AWS_ENDPOINT_URL`` names another server than Amazon's.

    Raises:
        ConfigError: Arrow knows no file system of that address.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        try:
            self._files, self._root = fs.FileSystem.from_uri(address)
        except (ArrowException, ValueError) as error:
            raise ConfigError(
                f"{VARIABLE} = '{address}' is no address of a mirror: {error}; give one such as "
                "s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
            ) from None

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest of the artefact ``name``, if the mirror has all of it."""
        path = f"{self._root}/{name}/{MANIFEST}"
        with self._reached():
            if self._files.get_file_info(path).type is not fs.FileType.File:
                return None
            with self._files.open_input_stream(path) as stream:
                found: dict[str, Any] = orjson.loads(stream.read())
                return found

    def names(self, stage: str) -> list[str]:
        """The artefacts of a stage."""
        selector = fs.FileSelector(f"{self._root}/{stage}", allow_not_found=True)
        with self._reached():
            return [f"{stage}/{info.base_name}" for info in self._files.get_file_info(selector)]

    def upload(self, folder: Path, name: str) -> None:
        """Copy a finished artefact; its manifest last, so that what is cut short is not taken for
        finished."""
        for file in [*read_json(folder / MANIFEST)["files"], MANIFEST]:
            target = f"{self._root}/{name}/{file}"
            with self._reached():
                if isinstance(self._files, fs.LocalFileSystem):  # others have no folders
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(str(folder / file), target, destination_filesystem=self._files)

    def download(self, name: str, folder: Path) -> None:
        """Copy an artefact that the mirror has into an empty folder, its manifest last."""
        manifest = self.manifest(name)
        assert manifest is not None
        for file in [*manifest["files"], MANIFEST]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            source = f"{self._root}/{name}/{file}"
            with self._reached():
                fs.copy_files(source, str(folder / file), source_filesystem=self._files)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (ArrowException, OSError) as error:
            raise ArtifactError(
                f"the mirror {self._address} cannot be used: {error}; check its address and keys, "
                f"or unset {VARIABLE}. Finished work is kept, and mirrored by the next run"
            ) from None


class MirroredStore(ArtifactStore):
    """An artefact store whose artefacts are in a mirror too."""

    def __init__(self, root: Path, mirror: Mirror) -> None:
        super().__init__(root)
        self._mirror = mirror

    def build(
        self, name: str, write: Callable[[Path], None], manifest: dict[str, Any]
    ) -> ArtifactRef:
        ref = super().build(name, write, manifest)
        self._mirror.upload(self.folder(ref), ref.path)
        return ref

    def verify(self, ref: ArtifactRef) -> bool:
        if super().verify(ref):
            self._keep(ref)
            return True
        return self._fetch(ref.path) and super().verify(ref)

    def find(self, name: str) -> ArtifactRef | None:
        found = super().find(name)
        return super().find(name) if found is None and self._fetch(name) else found

    def fetch_model(self, sha256: str) -> Path | None:
        """Bring the trained model of this hash, and what it was made from; its folder."""
        for stage in ("sft", "dpo"):
            for name in self._mirror.names(stage):
                manifest = self._mirror.manifest(name)
                if manifest and manifest["reference"]["sha256"] == sha256:
                    self._fetch_ancestry(name)
                    return self.root / name
        return None

    def _keep(self, ref: ArtifactRef) -> None:
        """Copy what was made without the mirror, or when it could not be reached; not what its user
        has put elsewhere."""
        if Path(ref.path).is_absolute():
            return
        found = self._mirror.manifest(ref.path)
        if found is None or found["reference"]["sha256"] != ref.sha256:
            self._mirror.upload(self.folder(ref), ref.path)

    def _fetch(self, name: str) -> bool:
        """Bring an artefact from the mirror, in place of a damaged one too."""
        if Path(name).is_absolute() or self._mirror.manifest(name) is None:
            return False
        final = self.root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        arriving = final.with_name(f".{final.name}.{uuid4().hex}")
        try:
            arriving.mkdir()
            self._mirror.download(name, arriving)
            shutil.rmtree(final, ignore_errors=True)
            arriving.rename(final)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        return True

    def _fetch_ancestry(self, name: str) -> None:
        if not (self.root / name / MANIFEST).is_file() and not self._fetch(name):
            return
        parents = read_json(self.root / name / MANIFEST).get("parents", {}).values()
        for ref in (ref for refs in parents for ref in refs):
            self._fetch_ancestry(ref["path"])


def open_store(root: Path) -> ArtifactStore:
    """The store in ``root``, with the mirror of the environment if there is one."""
    address = os.environ.get(VARIABLE)
    return MirroredStore(root, _mirror(address)) if address else ArtifactStore(root)


_mirror = cache(Mirror)
