"""Rules: each module is one, which keeps a dialogue or drops it with the rule's name as the reason.

The paper's four rules (section 4.1), the rules of DialoGPT's extraction that it builds on (Zhang et
al. 2020, section 2), and two against duplicates. In the named sets cheap rules come first, and a
dialogue stops at its first failing rule; since these rules look at one dialogue alone, the kept set
does not depend on their order.

Departures from DialoGPT, which judges a pair of source and target: here the whole dialogue is
judged, so ``max_words`` counts all of its words, ``frequent_word`` asks for one in any turn (the
rule stands for "is it English"), and ``repeated_word`` and ``offensive`` look at every turn.

``sentiment`` scores English words, so it does not apply to dialogues in other scripts. Where
``corpus.language`` names another language, neither it nor ``frequent_word``, which asks whether a
dialogue is English, applies. The funnel counts the dialogues that a rule did not apply to.

To add one: a module here, and its line in the table.
"""

from sage_core.named import Registry

ACROSS = ("exact_duplicate", "near_duplicate")
"""The rules that look across dialogues: they come last, in this order, over what others keep."""

SCORES_ENGLISH, ASKS_ENGLISH = "scores English", "asks whether it is English"

RULES = Registry(
    setting="corpus.rules",
    what="rule",
    traits={"sentiment": (SCORES_ENGLISH,), "frequent_word": (ASKS_ENGLISH,)},
    table={
        "paper": ("turns", "question", "words", "sentiment"),
        "dialogpt": (
            "subreddit",
            "frequent_word",
            "markup",
            "url",
            "max_words",
            "offensive",
            "repeated_word",
        ),
        "all": (
            "subreddit",
            "turns",
            "question",
            "frequent_word",
            "markup",
            "url",
            "words",
            "max_words",
            "offensive",
            "repeated_word",
            "sentiment",
            *ACROSS,
        ),
        "turns": "sage_core.corpus.rules.turns:turns",
        "question": "sage_core.corpus.rules.question:question",
        "words": "sage_core.corpus.rules.words:words",
        "sentiment": "sage_core.corpus.rules.sentiment:sentiment",
        "subreddit": "sage_core.corpus.rules.subreddit:subreddit",
        "frequent_word": "sage_core.corpus.rules.frequent_word:frequent_word",
        "markup": "sage_core.corpus.rules.markup:markup",
        "url": "sage_core.corpus.rules.url:url",
        "max_words": "sage_core.corpus.rules.max_words:max_words",
        "offensive": "sage_core.corpus.rules.offensive:offensive",
        "repeated_word": "sage_core.corpus.rules.repeated_word:repeated_word",
        "exact_duplicate": "sage_core.corpus.rules.exact_duplicate:exact_duplicate",
        "near_duplicate": "sage_core.corpus.rules.near_duplicate:near_duplicate",
    },
)
