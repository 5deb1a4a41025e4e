"""Which lexicon sentiment is scored with: NLTK's where it is installed."""

import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from zipfile import ZipFile

import pytest

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import lexicon, sentiment
from sage_core.corpus.build import load_funnel
from sage_core.corpus.card import write
from sage_core.corpus.lexicon import installed, nltk_folders
from sage_core.corpus.records import DIALOGUES
from sage_core.corpus.tables import RowWriter
from sage_core.schema import Dialogue
from sage_core.steps.corpus import CorpusPartition
from sage_core.steps.ingest import CorpusSource
from sage_core.steps.key import key
from sage_core.storage import ArtifactRef, write_json

OTHER = "heart\t3.2\t0.5\t[3]\nawful\t-2.0\t0.5\t[-2]\n"


@pytest.fixture
def nltk_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of NLTK's, the only one; what was found before is forgotten."""
    monkeypatch.setattr(lexicon, "nltk_folders", lambda: iter([tmp_path]))
    for found in (installed, sentiment.analyser):
        found.cache_clear()
    yield tmp_path
    for found in (installed, sentiment.analyser):
        found.cache_clear()


def put(folder: Path, *, unpacked: bool) -> None:
    (folder / "sentiment").mkdir()
    if unpacked:
        (folder / "sentiment/vader_lexicon").mkdir()
        (folder / "sentiment/vader_lexicon/vader_lexicon.txt").write_text(OTHER, "utf-8")
        return
    with ZipFile(folder / "sentiment/vader_lexicon.zip", "w") as archive:
        archive.writestr("vader_lexicon/vader_lexicon.txt", OTHER)


@pytest.mark.parametrize("unpacked", [False, True])
def test_nltks_own_where_it_is_installed(nltk_data: Path, unpacked: bool) -> None:
    put(nltk_data, unpacked=unpacked)
    assert (installed().of, installed().folder) == ("nltk", nltk_data)
    assert sentiment.lexicon() == {"heart": 3.2, "awful": -2.0}
    assert sentiment.analyser()("my heart") == sentiment.reference.__wrapped__()("my heart") > 0


def test_that_of_vader_sentiment_otherwise(nltk_data: Path) -> None:
    (nltk_data / "sentiment").mkdir()
    (nltk_data / "sentiment/vader_lexicon.zip").write_bytes(b"half a download")
    assert installed().of == "vaderSentiment"
    text = resources.files("vaderSentiment").joinpath("vader_lexicon.txt").read_bytes()
    assert installed().sha256 == hashlib.sha256(text).hexdigest()


def test_it_is_looked_for_where_nltk_does() -> None:
    import nltk

    package = str(resources.files("vaderSentiment"))
    assert [str(path) for path in nltk_folders()] == [p for p in nltk.data.path if p != package]


def test_the_data_card_names_it(nltk_data: Path, tmp_path: Path) -> None:
    with RowWriter(tmp_path / DIALOGUES, Dialogue):
        pass
    write_json(tmp_path / "funnel.json", [{"step": "read", "kept": 0, "dropped": 0, "records": {}}])

    def card(**settings: object) -> str:
        config = CorpusConfig.model_validate(settings)
        write(tmp_path, config, load_funnel(tmp_path), {}, {}, [])
        return (tmp_path / "data_card.md").read_text("utf-8")

    line = "Sentiment: VADER with the lexicon of `vaderSentiment`, SHA-256 `" + installed().sha256
    assert line in card(rules="paper")
    assert line in card(rules=(), span="longest_run")
    assert "Sentiment: VADER" not in card(rules="dialogpt")


def test_another_lexicon_is_another_key_of_what_is_scored(nltk_data: Path) -> None:
    config = CorpusConfig()
    scored = CorpusPartition(
        records=ArtifactRef("r", "0", 0), corpus=config, first=0, stop=1, phrases=""
    )
    read = CorpusSource(corpus=config.reading, part="chitchat", source="")
    before = key(scored), key(read)
    put(nltk_data, unpacked=False)
    installed.cache_clear()
    assert key(scored) != before[0]
    assert key(read) == before[1]
