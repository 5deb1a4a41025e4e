"""How a search spends its draws: each module is one strategy.

A strategy plays ``lines`` dialogues from each situation. At each turn of the agent it adds a reply
to all dialogues that go on, or ends them with the reason; in the end it picks one line of each
situation. Whatever it draws, compares and drops goes into the dialogue's search tree.

A name stands for a function (or class) that makes the strategy of the search's settings
(:class:`sage_core.search.strategies.strategy.Strategy`). To add one: a module here, and its line in
the table.
"""

from sage_core.named import Registry

NEEDS_STATES = "needs states"
"""The trait of a strategy that searches among states, which needs a model that speaks them and the
grammar that makes them readable."""

STRATEGIES = Registry(
    setting="search.strategy",
    what="strategy",
    table={
        "greedy": "sage_core.search.strategies.greedy:greedy",
        "best_of_n_dialogue": "sage_core.search.strategies.best_of_n_dialogue:best_of_n_dialogue",
        "tree": "sage_core.search.strategies.tree:tree",
    },
    traits={"tree": (NEEDS_STATES,)},
)
