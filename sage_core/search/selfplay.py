"""Self-play: the agent and a simulated user talk, all dialogues of a shard together.

How the agent's replies are found is up to the strategy (:mod:`sage_core.search.strategies`); who
is asked what, to :mod:`sage_core.search.dialogue`. A greedy search with one candidate and no
selector is a plain rollout, which is how models are evaluated.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from sage_core.config.conversation import SelfPlayConfig
from sage_core.sac import is_well_formed
from sage_core.schema import SearchNode, Showing, Situation, Trajectory
from sage_core.search.dialogue import (
    Dialogue,
    Speaker,
    agent_request,
    opened,
    set_user_states,
    user_turn,
)
from sage_core.search.saved import SavedDialogues
from sage_core.search.strategies.strategy import Players, Strategy


@dataclass(frozen=True)
class Found:
    """What came of one situation: the dialogue that was kept, its search tree, and what the
    selector was shown."""

    trajectory: Trajectory
    nodes: tuple[SearchNode, ...]
    showings: tuple[Showing, ...]


def self_play(
    situations: Sequence[Situation],
    players: Players,
    strategy: Strategy,
    *,
    work: Path | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Found]:
    """Simulate a conversation from each situation, in order.

    A dialogue that cannot go on ends with its reason (:data:`sage_core.schema.ENDINGS`), and the
    others go on. Where all engines are servers, each dialogue goes on as soon as its own answer is
    there; an engine in this process gets the turn of all dialogues as one batch.

    Args:
        work: a folder in which each turn is saved, and from which a search that was killed goes on.
        on_progress: called with the number of dialogues after each turn.
    """
    if len(situations) > 1 and _independent(players):
        reporting = Lock()

        def report(count: int) -> None:
            with reporting:
                on_progress(count)

        def alone(situation: Situation) -> list[Found]:
            return self_play([situation], players, strategy, work=work, on_progress=report)

        with ThreadPoolExecutor(len(situations)) as pool:
            return [found for part in pool.map(alone, situations) for found in part]
    dialogues = [
        opened(situation, _line(situation, line))
        for situation in situations
        for line in range(strategy.lines)
    ]
    saved = SavedDialogues(work, dialogues)
    loaded = saved.load()
    if loaded is None:
        set_user_states(
            dialogues, players.user, players.agent.profile, players.config, players.seed
        )
    first, dialogues = loaded or (1, dialogues)
    for turn in range(1, players.config.max_turns):
        if turn >= first:
            going = [dialogue for dialogue in dialogues if not dialogue.ended]
            if turn % 2 == 1:
                strategy.reply(going, players)
            else:
                user_turn(going, players.user, players.config, players.seed)
            saved.save(turn + 1, dialogues)
        on_progress(len(situations))
    groups = [dialogues[at : at + strategy.lines]
              for at in range(0, len(dialogues), strategy.lines)]  # fmt: skip
    return [_found(dialogue, players) for dialogue in strategy.pick(groups, players)]


def count_malformed(
    situations: Sequence[Situation], agent: Speaker, config: SelfPlayConfig, seed: int
) -> tuple[int, int]:
    """(malformed, n): first replies whose states are not well formed, under ``config``."""
    requests = [
        agent_request(opened(situation, situation.situation_id), agent, config, seed, 1)
        for situation in situations
    ]
    replies = [completions[0].text for completions in agent.engine.generate(requests)]
    return sum(not is_well_formed(reply) for reply in replies), len(replies)


def _independent(players: Players) -> bool:
    """Whether every engine may be asked from several threads."""
    engines = (players.agent.engine, players.user.engine)
    return all(engine.capabilities.independent for engine in engines) and (
        players.selector is None or players.selector.independent
    )


def _line(situation: Situation, number: int) -> str:
    return f"{situation.situation_id}#{number + 1}" if number else situation.situation_id


def _found(dialogue: Dialogue, players: Players) -> Found:
    situation = dialogue.situation
    trajectory = Trajectory(
        trajectory_id=f"{players.agent.name}/{situation.situation_id}",
        situation_id=situation.situation_id,
        situation=situation.text,
        emotion=situation.emotion,
        turns=tuple(dialogue.turns),
        ended=dialogue.ended or "turns",
        generated_tokens=dialogue.generated_tokens,
    )
    root = SearchNode("", 0, -1, "situation", "user", situation.text, None, True)
    nodes = (root, *dialogue.nodes)
    name = trajectory.trajectory_id
    return Found(
        trajectory,
        tuple(replace(node, trajectory_id=name) for node in nodes),
        tuple(replace(showing, trajectory_id=name) for showing in dialogue.showings),
    )
