"""The judge's own sense of a good social chatbot, as in the paper."""

QUESTION = (
    "Below are two conversations of a person with a social chatbot. Decide which chatbot is the "
    "better one."
)
