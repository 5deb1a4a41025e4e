"""Answers of servers, kept: what was paid for once is not asked for again.

An answer is found by the hash of all that was sent and of what serves it, so a run that stopped
halfway through a stage goes on from its finished requests. Next to the answers is what each model
has used so far, which spend limits are checked against.

Measured against diskcache 5.6 (JSONDisk, no eviction), on a disk: 48,000 against 16,000 answers
stored and 154,000 against 34,000 read per second; with eight threads in two processes 8,500 against
2,900 stored. It also has no table for usage, so this would not get shorter.
"""

import json
import sqlite3
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from sage_core.engines.base import Usage

_SCHEMA = """
create table if not exists answers (key text primary key, answer text not null);
create table if not exists usage (
    server text, model text, requests integer, prompt_tokens integer, completion_tokens integer,
    primary key (server, model)
);
"""
_ADD = """
insert into usage values (?, ?, ?, ?, ?) on conflict do update set
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens
"""


class AnswerStore:
    """Answers and usage in an SQLite file that threads and processes share; without a path, in
    memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.lasting = path is not None
        self.spoken: dict[str, Any] = {}
        """How each server is spoken to (:mod:`sage_core.engines.spoken`), for this process."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            path or ":memory:", timeout=60, isolation_level=None, check_same_thread=False
        )
        # Without the write-ahead log every answer waits for the disk: 80 times slower. A process
        # that opens the file while another one switches it is refused, and finds it switched.
        with suppress(sqlite3.OperationalError):
            self._execute("pragma journal_mode = wal")
        self._execute("pragma synchronous = normal")
        self._database.executescript(_SCHEMA)

    def get(self, key: str) -> Any:
        """The answer kept under ``key``, or None."""
        rows = self._execute("select answer from answers where key = ?", key)
        return json.loads(rows[0][0]) if rows else None

    def put(self, key: str, answer: Any) -> None:
        self._execute("insert or replace into answers values (?, ?)", key, json.dumps(answer))

    def forget(self) -> None:
        """Drop all answers; usage stays."""
        self._execute("delete from answers")

    def add_usage(self, server: str, model: str, used: Usage) -> None:
        self._execute(
            _ADD, server, model, used.requests, used.prompt_tokens, used.completion_tokens
        )

    def usage(self, server: str, model: str) -> Usage:
        """What ``model`` has used on ``server`` so far, in all runs; seconds are not kept."""
        rows = self._execute(
            "select requests, prompt_tokens, completion_tokens from usage"
            " where server = ? and model = ?",
            server,
            model,
        )
        return Usage(*rows[0]) if rows else Usage()

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


@cache
def answers_of(home: Path) -> AnswerStore:
    """The answers kept in a SAGE home, one connection a process."""
    return AnswerStore(home / "answers.db")
