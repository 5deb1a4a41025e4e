"""Readers: each module is one format, whose records it streams, good and bad ones.

To add one: a module here, and its line in the table.
"""

from sage_core.named import Registry

READERS = Registry(
    setting="corpus.reader",
    what="reader",
    table={
        "chitchat": "sage_core.corpus.readers.chitchat:READER",
        "empathetic_dialogues": "sage_core.corpus.readers.empathetic_dialogues:READER",
        "pushshift": "sage_core.corpus.readers.pushshift:READER",
        "convokit": "sage_core.corpus.readers.convokit:READER",
        "sharegpt": "sage_core.corpus.readers.messages:READER",
        "messages": "sage_core.corpus.readers.messages:READER",
        "chatgpt": "sage_core.corpus.readers.chatgpt:READER",
        "claude": "sage_core.corpus.readers.claude:READER",
        "discord": "sage_core.corpus.readers.discord:READER",
        "telegram": "sage_core.corpus.readers.telegram:READER",
        "whatsapp": "sage_core.corpus.readers.whatsapp:READER",
        "slack": "sage_core.corpus.readers.slack:READER",
        "openassistant": "sage_core.corpus.readers.openassistant:READER",
        "esconv": "sage_core.corpus.readers.esconv:READER",
        "hf": "sage_core.corpus.readers.huggingface:READER",
    },
)
