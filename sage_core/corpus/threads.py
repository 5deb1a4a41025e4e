"""Reply trees to dialogues: every path from the root of a tree to a leaf is one, as in DialoGPT.

A post whose parent is not there (not in the dump, deleted, or a bot's) starts a tree of its own.
A dialogue is named after its leaf, so it is the same whatever the order of lines in the dump.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby, pairwise
from operator import attrgetter

from sage_core.config.corpus import ThreadsConfig
from sage_core.corpus.records import SAMPLE_CHARACTERS, BadRecord, Post, is_gone
from sage_core.schema import Dialogue, Rejection, with_roles

CAP_STEP = "max_paths"
AUTHORS_STEP = "two_authors"
_ORDER = ("post_id", "created", "author", "text", "parent_id")


@dataclass
class PostCounts:
    """What became of the posts: ``used`` in a dialogue, ``dropped`` by reason, ``bad`` ones."""

    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[BadRecord] = field(default_factory=list)


def steps(config: ThreadsConfig) -> list[str]:
    """The funnel steps at which paths may be dropped."""
    return [CAP_STEP] * bool(config.max_paths) + [AUTHORS_STEP] * config.two_authors


def dialogues(
    posts: Iterable[Post], config: ThreadsConfig, counts: PostCounts
) -> Iterator[Dialogue | Rejection]:
    """The paths of all trees, one thread in memory at a time.

    ``posts`` come thread by thread (equal ``thread_id`` next to each other); within a thread
    their order does not matter. ``counts`` is added to: a post is used, dropped or bad.
    """
    for thread_id, of_thread in groupby(posts, key=lambda post: post.thread_id):
        yield from _paths(thread_id, _kept(of_thread, config, counts), config, counts)


def _kept(posts: Iterable[Post], config: ThreadsConfig, counts: PostCounts) -> dict[str, Post]:
    """The posts that count, by id, without repeated, deleted and bots' ones."""
    bot = re.compile(config.bot_pattern).search if config.bot_pattern else lambda author: None
    kept: dict[str, Post] = {}
    for post in sorted(posts, key=attrgetter(*_ORDER)):
        if post.post_id in kept:
            counts.dropped["repeated_post"] += 1
        elif config.drop_deleted and is_gone(post.text):
            counts.dropped["deleted"] += 1
        elif bot(post.author):
            counts.dropped["bot"] += 1
        else:
            kept[post.post_id] = post
    return kept


def _paths(
    thread_id: str, posts: dict[str, Post], config: ThreadsConfig, counts: PostCounts
) -> Iterator[Dialogue | Rejection]:
    replies: dict[str, list[Post]] = {}
    roots = []
    for post in posts.values():
        if post.parent_id in posts:
            replies.setdefault(post.parent_id, []).append(post)
        else:
            roots.append(post)
    leaves = []
    reached = set()
    waiting = sorted(roots, key=_age, reverse=True)
    while waiting:
        post = waiting.pop()
        reached.add(post.post_id)
        answers = replies.get(post.post_id)
        if answers:
            waiting += sorted(answers, key=_age, reverse=True)
        else:
            leaves.append(post)
    counts.used += len(reached)
    counts.bad += [
        BadRecord("parent_cycle", post.post_id, post.text[:SAMPLE_CHARACTERS])
        for post in posts.values()
        if post.post_id not in reached
    ]
    drawn = _draw(leaves, config.max_paths)
    for leaf in leaves:
        if leaf.post_id not in drawn:
            yield Rejection(leaf.post_id, CAP_STEP)
            continue
        path = _path(leaf, posts)
        if config.two_authors and not _takes_turns(path, config.merge_consecutive):
            yield Rejection(leaf.post_id, AUTHORS_STEP)
            continue
        turns = _turns(path) if config.merge_consecutive else [post.text for post in path]
        yield Dialogue(leaf.post_id, path[0].source, thread_id, with_roles(turns))


def _age(post: Post) -> tuple[int, str]:
    return post.created, post.post_id


def _draw(leaves: list[Post], limit: int) -> set[str]:
    """The ids of ``limit`` leaves, drawn by the hash of the id, so that no order matters."""
    ids = [leaf.post_id for leaf in leaves]
    if limit and len(ids) > limit:
        ids = sorted(ids, key=lambda name: blake2b(name.encode(), digest_size=8).digest())[:limit]
    return set(ids)


def _path(leaf: Post, posts: dict[str, Post]) -> list[Post]:
    path = [leaf]
    while (parent := posts.get(path[-1].parent_id)) is not None:
        path.append(parent)
    return path[::-1]


def _turns(path: list[Post]) -> list[str]:
    """Texts of the path, those of one known author in a row joined by a line break."""
    turns: list[str] = []
    last = ""
    for post in path:
        if turns and post.author and post.author == last:
            turns[-1] += "\n" + post.text
        else:
            turns.append(post.text)
        last = post.author
    return turns


def _takes_turns(path: list[Post], merged: bool) -> bool:
    authors = [post.author for post in path]
    if merged:
        authors = [author for author, _ in groupby(authors)]
    return (
        len(set(authors)) == 2
        and "" not in authors
        and all(one != other for one, other in pairwise(authors))
    )
