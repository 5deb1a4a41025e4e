"""Stages that ask a model questions: how many answers were read, and asking again for the others.

The shards of a stage that has too many unread answers are not finished: they are forgotten, so that
the next start makes them again. Their answers that were read are kept by the engine
(:mod:`sage_core.engines.answers`), so only the others are asked for.
"""

from collections.abc import Iterable, Sequence

from sage_core.answers.tally import Tally, joined
from sage_core.config.answers import UnreadSection
from sage_core.errors import AnswersError
from sage_core.steps.base import Step
from sage_core.steps.key import path_of
from sage_core.steps.names import ANSWERS
from sage_core.storage import ArtifactRef, read_json
from tasks.caching import make_all
from tasks.home import store


def make_asking(
    steps: Sequence[Step],
    labels: Iterable[str],
    settings: UnreadSection,
    setting: str,
    *,
    again: bool,
) -> list[ArtifactRef]:
    """:func:`tasks.caching.make_all` for the steps of one stage, each of which counts its answers.

    Args:
        settings: has the largest share of unread answers, which ``setting`` names.
        again: make those steps again whose artefacts have unread answers.

    Raises:
        AnswersError: the share is larger.
    """
    if again:
        _forget(filter(None, (store().find(path_of(step)) for step in steps)))
    parts = make_all(steps, labels)
    try:
        tally_of(parts).check(settings.max_unread_share, setting)
    except AnswersError:
        _forget(parts)
        raise
    return parts


def tally_of(refs: Iterable[ArtifactRef]) -> Tally:
    """How many answers of some artefacts were read."""
    return joined([read_json(store().folder(ref) / ANSWERS) for ref in refs])


def _forget(refs: Iterable[ArtifactRef]) -> None:
    for ref in refs:
        if tally_of([ref]).unread:
            store().forget(ref)
