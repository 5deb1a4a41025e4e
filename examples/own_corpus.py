"""A reader and a rule of your own: from a file of support tickets to a corpus with its funnel.

    python examples/own_corpus.py

The reader turns each line of JSON into a dialogue; what it cannot read is set aside with a reason.
The rule drops dialogues in which somebody gives a phone number; its name is the reason. Settings
name both as `module:name`, and `sage corpus build --reader own_corpus:read_tickets` takes the same.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from sage_core import (
    BadRecord,
    CorpusConfig,
    Dialogue,
    Message,
    Rejection,
    Source,
    build_corpus,
    read_rows,
)

TICKETS = """\
{"ticket": 1, "said": ["My parcel is late again.", "Oh no! I am looking for it.", "Thank you!"]}
{"ticket": 2, "said": ["Call me: 555-0142-77.", "I will call you soon."]}
{"ticket": 3, "said": ["The lamp came broken.", "I am sorry! A new one is on its way."]}
{"ticket": 4, "said": ["Hello?"]}
{"ticket": 5}
"""


def read_tickets(source: Source, config: CorpusConfig) -> Iterator[Dialogue | BadRecord]:
    """The reader: the customer is the user, and speaks first."""
    lines = source.file.open(encoding="utf-8")
    for number, line in enumerate(lines, start=1):
        ticket = json.loads(line)
        if "said" not in ticket:
            yield BadRecord("nothing_said", f"{source.name}, line {number}", line)
            continue
        roles = ("user", "assistant")
        turns = tuple(Message(roles[n % 2], text) for n, text in enumerate(ticket["said"]))
        name = f"ticket-{ticket['ticket']}"
        yield Dialogue(name, source.name, name, turns, has_roles=True)


def no_phone_number(config: CorpusConfig) -> Callable[[Dialogue], bool]:
    """The rule: whether a dialogue is kept."""
    number = re.compile(r"\d{3}[- ]?\d{4}")
    return lambda dialogue: not any(number.search(turn.content) for turn in dialogue.messages)


def main() -> None:
    with TemporaryDirectory() as scratch:
        tickets, corpus = Path(scratch) / "tickets.jsonl", Path(scratch) / "corpus"
        tickets.write_text(TICKETS, encoding="utf-8")
        config = CorpusConfig(
            reader="own_corpus:read_tickets",
            input=tickets,
            rules=("turns", "own_corpus:no_phone_number"),
            min_turns=2,
            max_bad_share=0.5,  # of these few; a file with more than 1% is an error by default
        )
        for step in build_corpus(config, corpus):
            print(f"{step['step']:28} kept {step['kept']}, dropped {step['dropped']}")
        for rejected in read_rows(corpus / "rejected.parquet", Rejection):
            print(f"{rejected.dialogue_id}: {rejected.reason}")
        for dialogue in read_rows(corpus / "dialogues.parquet", Dialogue):
            print(f"{dialogue.dialogue_id}: {dialogue.messages[0].content}")


if __name__ == "__main__":
    main()
