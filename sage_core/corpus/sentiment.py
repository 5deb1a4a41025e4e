"""VADER sentiment, as NLTK computes it and with the lexicon supplied offline.

The paper used NLTK's ``SentimentIntensityAnalyzer``; the ``vaderSentiment`` package's own analyser
gives another score on about one utterance in eleven, so only its lexicon file is used here.
"""

from collections.abc import Callable
from functools import cache
from importlib import resources


@cache
def analyser() -> Callable[[str], float]:
    """A function from an utterance to its compound score in [-1, 1]."""
    import nltk
    from nltk.sentiment.vader import SentimentIntensityAnalyzer

    # NLTK refuses lexicon paths outside its own search path.
    folder = str(resources.files("vaderSentiment"))
    if folder not in nltk.data.path:
        nltk.data.path.append(folder)
    vader = SentimentIntensityAnalyzer(lexicon_file="vader_lexicon.txt")

    def compound(utterance: str) -> float:
        return float(vader.polarity_scores(utterance)["compound"])

    return compound
