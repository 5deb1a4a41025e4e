"""Dialogues of listed sources are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.packaged import packaged


def subreddit(config: CorpusConfig) -> Keeps:
    lines = packaged("data/blocked_subreddits.txt").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    blocked = frozenset(map(_name, (*listed, *config.blocked_sources)))
    return lambda dialogue: _name(dialogue.source) not in blocked


def _name(source: str) -> str:
    return source.strip().casefold().removeprefix("/").removeprefix("r/")
