"""Reply trees: every root-to-leaf path once, whatever the order of posts, and no post lost."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config.corpus import ThreadsConfig
from sage_core.corpus.records import Post
from sage_core.corpus.threads import PostCounts, dialogues
from sage_core.schema import Dialogue, Rejection


def post(name: str, parent: str = "", author: str = "", text: str = "", thread: str = "t") -> Post:
    return Post(name, parent, thread, author or f"by-{name}", 0, "r/test", text or f"text {name}")


def paths(
    posts: Sequence[Post], config: ThreadsConfig | None = None
) -> tuple[dict[str, list[str]], list[Rejection], PostCounts]:
    counts = PostCounts()
    found = list(dialogues(posts, config or ThreadsConfig(), counts))
    kept = [path for path in found if isinstance(path, Dialogue)]
    texts = {path.dialogue_id: [message.content for message in path.messages] for path in kept}
    assert len(texts) == len(kept)  # every path has a name of its own
    return texts, [path for path in found if isinstance(path, Rejection)], counts


TREE = [
    post("a"),
    post("b", "a"),
    post("c", "a"),
    post("d", "b"),
    post("e", "b"),
]


def test_every_path_from_the_root_to_a_leaf() -> None:
    found, rejected, counts = paths(TREE)
    assert found == {
        "c": ["text a", "text c"],
        "d": ["text a", "text b", "text d"],
        "e": ["text a", "text b", "text e"],
    }
    assert rejected == []
    assert counts.used == 5


def test_roles_alternate_from_the_user_on() -> None:
    (path,) = dialogues([post("a"), post("b", "a")], ThreadsConfig(), PostCounts())
    assert isinstance(path, Dialogue)
    assert [message.role for message in path.messages] == ["user", "assistant"]
    assert (path.source, path.thread_id, path.split) == ("r/test", "t", "train")


def test_orphans_start_their_own_tree_and_stay_in_their_thread() -> None:
    found, _, _ = paths([post("a"), post("y", "gone"), post("z", "y")])
    assert found == {"a": ["text a"], "z": ["text y", "text z"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"text": "[deleted]"}, "deleted"), ({"text": " [removed]\n"}, "deleted"),
     ({"text": "[ Removed by Reddit ]"}, "deleted"), ({"text": "[deleted by user]"}, "deleted"),
     ({"text": "[unavailable]"}, "deleted"), ({"text": "[ removed by reddit ]"}, "deleted"),
     ({"author": "AutoModerator"}, "bot"), ({"author": "RemindMeBot"}, "bot"),
     ({"author": "WikiSummarizerBot2"}, "bot"), ({"author": "sneakpeekbot"}, "bot"),
     ({"author": "some-bot_1"}, "bot"), ({"author": "BOT"}, "bot"), ({"author": "LabBot"}, "bot")],
)  # fmt: skip
def test_deleted_posts_and_bots_are_taken_out_and_cut_the_path(
    change: dict[str, str], reason: str
) -> None:
    found, _, counts = paths([post("a"), post("b", "a", **change), post("c", "b")])
    assert found == {"a": ["text a"], "c": ["text c"]}
    assert counts.dropped == {reason: 1}
    assert counts.used == 2


@pytest.mark.parametrize(
    "change",
    [
        *({"author": name} for name in ("jennyabbot", "Abbot", "talbot2", "mr_robot", "botany")),
        *({"text": text} for text in ("It says [deleted]", "[link]", "removed")),
    ],
)
def test_people_whose_names_end_like_a_bots_stay(change: dict[str, str]) -> None:
    found, _, counts = paths([post("a"), post("b", "a", **change)])
    assert list(found) == ["b"]
    assert not counts.dropped


def test_deleted_posts_stay_where_the_config_says_so() -> None:
    config = ThreadsConfig(drop_deleted=False, bot_pattern="")
    found, _, _ = paths([post("a"), post("b", "a", "somebot", "[deleted]")], config)
    assert found == {"b": ["text a", "[deleted]"]}


def test_posts_of_one_author_in_a_row_are_one_turn() -> None:
    posts = [post("a", author="x"), post("b", "a", "x"), post("c", "b", "y"), post("d", "c", "x")]
    found, _, _ = paths(posts)
    assert found == {"d": ["text a\ntext b", "text c", "text d"]}
    found, _, _ = paths(posts, ThreadsConfig(merge_consecutive=False))
    assert found == {"d": ["text a", "text b", "text c", "text d"]}


def test_unknown_authors_are_not_taken_for_one() -> None:
    posts = [Post(n, p, "t", "", 0, "s", n) for n, p in (("a", ""), ("b", "a"))]
    found, _, _ = paths(posts)
    assert found == {"b": ["a", "b"]}


@pytest.mark.parametrize(
    ("authors", "kept"), [("xy", 1), ("xyxy", 1), ("xxyx", 1), ("xyz", 0), ("xx", 0), ("x", 0)]
)
def test_two_authors_only(authors: str, kept: int) -> None:
    posts = [post(str(number), str(number - 1), author) for number, author in enumerate(authors)]
    found, rejected, _ = paths(posts, ThreadsConfig(two_authors=True))
    assert len(found) == kept
    assert [rejection.reason for rejection in rejected] == ["two_authors"] * (1 - kept)


def test_the_cap_drops_the_same_paths_whatever_the_order() -> None:
    posts = [post("a"), *(post(f"leaf{number}", "a") for number in range(20))]
    found, rejected, _ = paths(posts, ThreadsConfig(max_paths=3))
    assert len(found) == 3
    assert [rejection.reason for rejection in rejected] == ["max_paths"] * 17
    assert paths(posts[::-1], ThreadsConfig(max_paths=3))[0] == found


def test_a_cycle_of_parents_is_bad_and_the_rest_goes_on() -> None:
    posts = [post("a"), post("b", "a"), post("x", "y"), post("y", "x"), post("z", "y"),
             post("self", "self")]  # fmt: skip
    found, _, counts = paths(posts)
    assert found == {"b": ["text a", "text b"]}
    assert counts.used == 2
    assert sorted((bad.reason, bad.where) for bad in counts.bad) == [
        ("parent_cycle", name) for name in ("self", "x", "y", "z")
    ]


def test_a_post_that_stands_twice_in_the_dump_counts_once() -> None:
    found, _, counts = paths([*TREE, post("d", "b", text="another")])
    assert found["d"] == ["text a", "text b", "another"]  # the first in order of text
    assert counts.dropped == {"repeated_post": 1}


def test_a_long_thread_is_no_recursion() -> None:
    posts = [post(str(number), str(number - 1)) for number in range(5000)]
    found, _, _ = paths(posts, ThreadsConfig(merge_consecutive=False))
    assert len(found["4999"]) == 5000


names = st.integers(0, 12).map(str)


@given(
    st.lists(st.tuples(names, names, st.sampled_from(["x", "y", "somebot"])), max_size=30),
    st.randoms(use_true_random=False),
)
def test_no_post_is_lost_and_no_order_matters(
    rows: list[tuple[str, str, str]], random: object
) -> None:
    posts = [post(name, parent, author) for name, parent, author in rows]
    found, _, counts = paths(posts)
    assert counts.used + counts.dropped.total() + len(counts.bad) == len(posts)
    random.shuffle(posts)  # type: ignore[attr-defined]
    assert paths(posts)[0] == found
