"""Minimal files of every format that is read, with the conversation in them."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ASKED, ANSWERED, THANKED = "Is the bus late?", "Yes, by an hour.", "Thanks a lot!"
TALK = [("user", ASKED), ("assistant", ANSWERED), ("user", THANKED)]
PAIR = TALK[:2]
OPENAI = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": ASKED}, {"type": "image_url", "x": 1}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
    {"role": "tool", "content": "60", "tool_call_id": "1"},
    {"role": "assistant", "content": ANSWERED},
    {"role": "user", "content": THANKED},
]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": said}
            for role, said in TALK]  # fmt: skip
MESSAGES = [{"role": role, "content": said} for role, said in TALK]
TREE = {
    "message_tree_id": "t", "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "t", "text": ASKED, "role": "prompter", "replies": [
            {"message_id": "a", "text": ANSWERED, "role": "assistant", "replies": [
                {"message_id": "b", "text": THANKED, "role": "prompter", "replies": []}]},
            {"message_id": "c", "text": "x", "role": "assistant", "deleted": True, "replies": []},
        ],
    },
}  # fmt: skip
FLAT: list[dict[str, Any]] = [
    {"message_id": "t", "parent_id": None, "message_tree_id": "t", "text": ASKED,
     "role": "prompter", "deleted": False},
    {"message_id": "a", "parent_id": "t", "message_tree_id": "t", "text": ANSWERED,
     "role": "assistant", "deleted": False},
    {"message_id": "b", "parent_id": "a", "message_tree_id": "t", "text": THANKED,
     "role": "prompter", "deleted": False},
]  # fmt: skip
ESCONV = {
    "emotion_type": "anger", "problem_type": "bus", "situation": "late",
    "dialog": [{"speaker": "seeker", "annotation": {}, "content": f"{ASKED}\n"},
               {"speaker": "supporter", "annotation": {}, "content": ANSWERED},
               {"speaker": "seeker", "annotation": {}, "content": THANKED}],
}  # fmt: skip
HUBS_ESCONV = {
    "text": json.dumps(
        {**ESCONV, "dialog": [
            {"speaker": who, "text": said}
            for who, (_, said) in zip(("usr", "sys", "usr"), TALK, strict=True)]}
    )
}  # fmt: skip


def chatgpt() -> list[dict[str, Any]]:
    """A conversation whose question was edited: the first branch is not shown any more."""

    def node(name: str, parent: str | None, role: str, said: str, **more: Any) -> dict[str, Any]:
        message = {
            "author": {"role": role}, "recipient": "all", "metadata": {},
            "content": {"content_type": "text", "parts": [said]}, **more,
        }  # fmt: skip
        return {"id": name, "parent": parent, "children": [], "message": message}

    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    code = {"content": {"content_type": "code", "text": "f()"}, "recipient": "python"}
    nodes = [
        {"id": "root", "parent": None, "children": ["s"], "message": None},
        node("s", "root", "system", "", **hidden),
        node("old", "s", "user", "Is the train late?"),
        node("old answer", "old", "assistant", "No."),
        node("new", "s", "user", ASKED),
        node("call", "new", "assistant", "", **code),
        node("result", "call", "tool", "60"),
        node("answer", "result", "assistant", ANSWERED),
        node("thanks", "answer", "user", THANKED),
    ]
    mapping = {each["id"]: each for each in nodes}
    return [{"title": "t", "id": "x", "mapping": mapping, "current_node": "thanks"}]


def claude() -> list[dict[str, Any]]:
    root = "00000000-0000-4000-8000-000000000000"

    def message(name: str, parent: str, sender: str, said: str) -> dict[str, Any]:
        parts = [{"type": "text", "text": said}, {"type": "tool_use", "name": "f"}]
        return {"uuid": name, "sender": sender, "text": said, "content": parts,
                "parent_message_uuid": parent}  # fmt: skip

    messages = [
        message("0", root, "human", "Is the train late?"),
        message("1", root, "human", ASKED),
        message("2", "1", "assistant", ANSWERED),
        message("3", "2", "human", THANKED),
    ]
    return [{"uuid": "x", "name": "n", "chat_messages": messages}]


def discord() -> dict[str, Any]:
    def message(name: str, minute: int, said: str, kind: str = "Default") -> dict[str, Any]:
        time = f"2024-01-31T10:{minute:02}:00.123+00:00"
        author = {"id": "1", "name": name.lower(), "nickname": name, "isBot": False}
        return {"id": "9", "type": kind, "timestamp": time, "content": said, "author": author}

    return {
        "guild": {"name": "g"},
        "channel": {"id": "c", "name": "general"},
        "messages": [
            message("Anna", 0, "joined the server.", "GuildMemberJoin"),
            message("Anna", 1, ASKED),
            message("Bob", 2, ANSWERED, "Reply"),
            message("Anna", 3, THANKED),
        ],
    }


def telegram() -> dict[str, Any]:
    def message(name: str, time: int, said: object, kind: str = "message") -> dict[str, Any]:
        return {"id": 1, "type": kind, "date": "2024-01-31T10:00:00", "date_unixtime": str(time),
                "from": name, "from_id": "user1", "text": said}  # fmt: skip

    link = [{"type": "bold", "text": "Is"}, " the bus late?"]
    return {
        "name": "Anna",
        "type": "personal_chat",
        "id": 7,
        "messages": [
            message("Anna", 1, "", "service"),
            message("Anna", 2, link),
            message("Bob", 3, ANSWERED),
            message("Anna", 4, THANKED),
        ],
    }


WHATSAPP = f"""\
31/12/23, 23:50 - Messages and calls are end-to-end encrypted.
31/12/23, 23:58 - Anna: Is the
bus late?
31/12/23, 23:59 - Bob: {ANSWERED}
01/01/24, 00:01 - Anna: <Media omitted>
01/01/24, 00:02 - Anna: {THANKED}
"""
IPHONE = f"""\
[12/31/23, 11:58:00\u202fPM] Anna: {ASKED}
[12/31/23, 11:59:00\u202fPM] Bob: {ANSWERED}
\u200e[1/1/24, 12:01:00\u202fAM] Anna: \u200eimage omitted
[1/1/24, 12:02:00\u202fAM] Anna: {THANKED}
"""


def table(delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["conversation_id", "speaker", "text"])
    writer.writerows([["x", role, said] for role, said in TALK])
    return text.getvalue()


def slack(folder: Path) -> None:
    def message(user: str, second: int, said: str, **more: Any) -> dict[str, Any]:
        return {"type": "message", "user": user, "text": said, "ts": f"{second}.000100", **more}

    (folder / "general").mkdir(parents=True)
    users = [{"id": "U1", "name": "anna", "profile": {"display_name": "Anna"}},
             {"id": "U2", "name": "bob", "profile": {"real_name": "Bob"}}]  # fmt: skip
    days = {
        "2024-01-31": [message("U1", 1, "<@U1> has joined", subtype="channel_join"),
                       message("U1", 2, ASKED)],
        "2024-02-01": [message("U2", 3, ANSWERED), message("U1", 4, THANKED)],
    }  # fmt: skip
    (folder / "users.json").write_text(json.dumps(users), encoding="utf-8")
    for day, messages in days.items():
        (folder / "general" / f"{day}.json").write_text(json.dumps(messages), encoding="utf-8")


def lines(*records: object) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


def parquet(*rows: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.Table.from_pylist(list(rows)), path)


BOB = {"Bob": "assistant"}
Content = str | Callable[[Path], None]
# name -> reader, file, content, settings, what is said
FORMATS: dict[str, tuple[str, str, Content, dict[str, Any], list[tuple[str, str]]]] = {
    "OpenAI messages": ("messages", "a.jsonl", lines({"messages": OPENAI}), {}, TALK),
    "ShareGPT": ("messages", "a.json", json.dumps([{"conversations": SHAREGPT}]), {}, TALK),
    "conversations with role": ("messages", "a.jsonl", lines({"conversations": MESSAGES}), {},
                                TALK),
    "LMSYS": ("messages", "a.jsonl", lines({"conversation_id": "x", "model": "m",
                                            "conversation": MESSAGES}), {}, TALK),
    "WildChat": ("messages", "a.parquet", parquet({"conversation_hash": "x",
                                                   "conversation": MESSAGES}), {}, TALK),
    "a column of JSON": ("messages", "a.parquet", parquet({"messages": json.dumps(MESSAGES)}), {},
                         TALK),
    "JSON in CSV": ("messages", "a.csv", 'id;messages\n1;"'
                    + json.dumps(MESSAGES).replace('"', '""') + '"\n', {}, TALK),
    "ShareGPT in Parquet": ("sharegpt", "a.parquet", parquet({"conversations": SHAREGPT}), {},
                            TALK),
    "one object on several lines": ("messages", "a.txt", json.dumps({"messages": MESSAGES},
                                                                    indent=2), {}, TALK),
    "an array in an object": ("messages", "a.dat", json.dumps(
        {"version": 1, "data": [{"messages": MESSAGES}]}, indent=1), {}, TALK),
    "an array in an object on one line": ("messages", "a.jsonl", json.dumps(
        {"conversations": [{"messages": MESSAGES}]}), {}, TALK),
    "an array under another suffix": ("messages", "a.jsonl", json.dumps([{"messages": MESSAGES}],
                                                                        indent=2), {}, TALK),
    "texts": ("messages", "a.jsonl", lines({"dialog": [said for _, said in TALK]}), {}, TALK),
    "turns by name": ("messages", "a.jsonl", lines({"turns": [said for _, said in TALK]}),
                      {"columns": {"messages": "turns"}}, TALK),
    "CSV": ("messages", "a.csv", table(","), {}, TALK),
    "TSV": ("messages", "a.tsv", table("\t"), {}, TALK),
    "rows in Parquet": ("messages", "a.parquet", parquet(
        *({"dialogue_id": "x", "speaker": role, "utterance": said} for role, said in TALK)), {},
        TALK),
    "columns and roles by name": (
        "messages", "a.jsonl",
        lines({"log": [{"who": {"user": "kunde", "assistant": "berater"}[role], "was": said}
                       for role, said in TALK]}),
        {"columns": {"messages": "log", "role": "who", "content": "was"},
         "roles": {"kunde": "user", "berater": "assistant"}}, TALK),
    "Alpaca": ("messages", "a.json", json.dumps(
        [{"instruction": "Answer.", "input": ASKED, "output": ANSWERED}]), {},
        [("user", f"Answer.\n{ASKED}"), ("assistant", ANSWERED)]),
    "prompt and completion": ("messages", "a.jsonl", lines({"prompt": ASKED,
                                                            "completion": ANSWERED}), {}, PAIR),
    "prompt and completion as messages": ("messages", "a.jsonl", lines(
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:2]}), {}, PAIR),
    "ChatGPT": ("chatgpt", "conversations.json", json.dumps(chatgpt()), {}, TALK),
    "Claude": ("claude", "conversations.json", json.dumps(claude()), {}, TALK),
    "Discord": ("discord", "a.json", json.dumps(discord(), indent=2), {"roles": BOB}, TALK),
    "Telegram": ("telegram", "result.json", json.dumps(telegram(), indent=1), {"roles": BOB}, TALK),
    "Telegram, all chats": ("telegram", "result.json", json.dumps(
        {"about": "x", "chats": {"about": "y", "list": [telegram()]}}), {"roles": BOB}, TALK),
    "WhatsApp": ("whatsapp", "chat.txt", WHATSAPP, {"roles": BOB},
                 [("user", "Is the\nbus late?"), *TALK[1:]]),
    "WhatsApp, iOS": ("whatsapp", "_chat.txt", IPHONE, {"roles": BOB}, TALK),
    "Slack": ("slack", "export", slack, {"roles": BOB}, TALK),
    "OpenAssistant": ("openassistant", "a.trees.jsonl", lines(TREE), {}, TALK),
    "OpenAssistant's table": ("openassistant", "a.parquet", parquet(*FLAT), {}, TALK),
    "ESConv": ("esconv", "ESConv.json", json.dumps([ESCONV], indent=2), {}, TALK),
    "the hub's ESConv": ("esconv", "a.jsonl", lines(HUBS_ESCONV), {}, TALK),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """The file of a format."""
    _, file, content, _, _ = FORMATS[name]
    path = folder / file
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        content(path)
    return path
