"""The criteria of the paper's release."""

QUESTION = (
    "Below are two conversations of a person with a companion chatbot. Decide which companion is "
    "the better one: it talks naturally and in everyday words, is funny and sympathetic, and does "
    "not go on for long."
)
