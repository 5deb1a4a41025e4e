"""``make bench-corpus``: the corpus builder against the plain way, at growing sizes, on Ray.

The plain way reads all conversations, scores every utterance with NLTK, then applies the paper's
rules. Times are of a fresh process that has done a little of the same before; ours include writing
the tables.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from random import Random

import zstandard

from benchmarks.clusters import ray_cluster
from benchmarks.harness import Benchmark, alone, peak_memory, timed
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.records import DIALOGUES, FUNNEL, REJECTED
from sage_core.corpus.rules.question import asks_question
from sage_core.corpus.rules.turns import has_turns
from sage_core.corpus.rules.words import mean_words
from sage_core.corpus.sentiment import analyser, reference
from sage_core.corpus.sources import read, sources
from sage_core.schema import Dialogue, with_roles
from sage_core.steps.local import build_corpus
from sage_core.storage import read_rows

UNITS = (1, 4, 16)
FILES = 2  # of a unit, so that two processes share one
COMMENTS = 160_000  # of a file; about 170 MB of JSON lines
LINEAR = 0.25
MEMORY_MB = 1500.0
FLAT = 1.25
CORES = 2


def main() -> None:
    benchmark = Benchmark("corpus")
    against_the_plain_way(benchmark)
    sentiment(benchmark)
    with tempfile.TemporaryDirectory() as folder:
        scale(benchmark, Path(folder))
        on_ray(benchmark, Path(folder))
    benchmark.finish()


def against_the_plain_way(benchmark: Benchmark) -> None:
    for span, target in (("whole", 15.0), ("longest_run", 3.0)):
        config = CorpusConfig.model_validate({"span": span})
        plain_s, plain_ids = alone(warm, plain, config)
        ours_s, our_ids = alone(warm, ours, config)
        conversations = 7168
        same = sorted(plain_ids) == sorted(our_ids)
        benchmark.add(
            f"chitchat, {span}: dialogues/s, {len(our_ids)} kept, "
            f"{'the same' if same else 'OTHERS'} as the plain way",
            f"{conversations / ours_s:.0f}",
            f"{conversations / plain_s:.0f} (plain)",
            f"{plain_s / ours_s:.1f}x",
            f">= {target:g}x, same ids",
            same and plain_s / ours_s >= target,
        )


def warm(
    function: Callable[[CorpusConfig], list[str]], config: CorpusConfig
) -> tuple[float, list[str]]:
    """Seconds and result of a call, after one on ten dialogues that loads what is loaded late."""
    function(config.model_copy(update={"max_read": 10}))
    return timed(function, config)


def plain(config: CorpusConfig) -> list[str]:
    """The ids kept by scoring everything first."""
    compound = reference()
    (source,) = sources(config)
    records = islice(read(source, config), config.max_read or None)
    dialogues = [row for row in records if isinstance(row, Dialogue)]
    scores = [[compound(message.content) for message in row.messages] for row in dialogues]
    kept = []
    for dialogue, scored in zip(dialogues, scores, strict=True):
        positive = [score > config.min_sentiment for score in scored]
        candidate = dialogue
        if config.span == "longest_run":
            start, end = _longest(positive)
            texts = [message.content for message in dialogue.messages[start:end]]
            candidate = Dialogue(dialogue.dialogue_id, "", "", with_roles(texts))
            positive = positive[start:end]
        if (
            has_turns(candidate, config.min_turns)
            and asks_question(candidate)
            and mean_words(candidate) > config.min_mean_words
            and all(positive)
        ):
            kept.append(dialogue.dialogue_id)
    return kept


def _longest(positive: list[bool]) -> tuple[int, int]:
    best, start = (0, 0), 0
    for index, good in enumerate([*positive, False]):
        if not good:
            if index - start > best[1] - best[0]:
                best = (start, index)
            start = index + 1
    return best


def ours(config: CorpusConfig) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(config, Path(folder), CORES)
        return [row.dialogue_id for row in read_rows(Path(folder) / DIALOGUES, Dialogue)]


def sentiment(benchmark: Benchmark) -> None:
    texts = utterances()
    nltk_s, expected = timed(lambda: list(map(reference(), texts)))
    ours_s, scores = timed(lambda: list(map(analyser(), texts)))
    equal = sum(one == other for one, other in zip(scores, expected, strict=True))
    benchmark.add(
        f"VADER, utterances/s; {equal} of {len(texts)} scores equal to the last digit",
        f"{len(texts) / ours_s:.0f}",
        f"{len(texts) / nltk_s:.0f} (NLTK)",
        f"{nltk_s / ours_s:.1f}x",
        "all equal",
        equal == len(texts),
    )


def utterances() -> list[str]:
    config = CorpusConfig()
    (source,) = sources(config)
    return [
        message.content
        for row in read(source, config)
        if isinstance(row, Dialogue)
        for message in row.messages
    ]


def scale(benchmark: Benchmark, folder: Path) -> None:
    bodies = utterances()
    sizes = [write_file(folder, number, bodies) for number in range(FILES * max(UNITS))]
    for processes in (1, CORES):
        seconds, peaks = {}, {}
        for units in UNITS:
            seconds[units], peaks[units] = alone(measure, folder, units, processes)
            size = sum(sizes[: FILES * units])
            expected = seconds[UNITS[0]] * size / sum(sizes[: FILES * UNITS[0]])
            off = seconds[units] / expected - 1
            flat = peaks[units] / peaks[UNITS[0]]
            benchmark.add(
                f"Pushshift dump of {size / 1e9:.2f} GB, {processes} process"
                f"{'es' if processes > 1 else ''}: s, peak MB",
                f"{seconds[units]:.1f} s, {peaks[units]:.0f} MB",
                f"{expected:.1f} s, {peaks[UNITS[0]]:.0f} MB (1 unit, in proportion)",
                f"{off:+.0%}, {flat:.2f}x",
                f"within {LINEAR:.0%}; <= {FLAT}x, < {MEMORY_MB:.0f} MB",
                abs(off) <= LINEAR and flat <= FLAT and peaks[units] < MEMORY_MB,
            )


def measure(folder: Path, units: int, processes: int) -> tuple[float, float]:
    """Seconds and peak MB of building a corpus from the first ``units`` units."""
    build_corpus(CorpusConfig(max_read=10), folder / "warm")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        dump = Path(scratch) / "dump"
        dump.mkdir()
        for number in range(FILES * units):
            (dump / file_name(number)).hardlink_to(folder / file_name(number))
        with peak_memory() as peak:
            seconds, _ = timed(build_corpus, reddit(dump), Path(scratch) / "out", processes)
        return seconds, peak[0]


def reddit(dump: Path) -> CorpusConfig:
    return CorpusConfig(reader="pushshift", input=dump)


def file_name(number: int) -> str:
    return f"RC_2012-{number:02}.zst"


def write_file(folder: Path, file: int, bodies: list[str]) -> int:
    """A file shaped like a month of comments, with real utterances as bodies; its size as plain
    text. Threads have one to sixty comments, each an answer to a random earlier one or the last."""
    random = Random(file)
    said = cycle(bodies[random.randrange(len(bodies)) :] + bodies)
    path = folder / file_name(file)
    size = 0
    written = 0
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with path.open("wb") as raw, compressor.stream_writer(raw) as stream:
        while written < COMMENTS:
            thread = f"t3_{file:x}t{written:x}"
            parents = [thread]
            lines = []
            for number, body in enumerate(islice(said, random.randint(1, 60))):
                name = f"{file:x}c{written + number:x}"
                parent = parents[-1] if random.random() < 0.7 else random.choice(parents)
                lines.append(json.dumps(comment(name, parent, thread, written + number, body)))
                parents.append(f"t1_{name}")
            written += len(lines)
            text = ("\n".join(lines) + "\n").encode()
            size += len(text)
            stream.write(text)
    return size


def comment(name: str, parent: str, thread: str, number: int, body: str) -> dict[str, object]:
    return {
        "archived": True, "author": f"author_{number % 9973}", "author_flair_css_class": None,
        "author_flair_text": None, "body": body, "can_gild": False, "controversiality": 0,
        "created_utc": 1_325_376_000 + number, "distinguished": None, "downs": 0, "edited": False,
        "gilded": 0, "id": name, "is_submitter": False, "link_id": thread, "name": f"t1_{name}",
        "nest_level": None, "parent_id": parent,
        "permalink": f"/r/CasualConversation/comments/{thread}/a_day_like_any_other/{name}/",
        "retrieved_on": 1_428_000_000 + number, "score": number % 40, "score_hidden": False,
        "stickied": False, "subreddit": "CasualConversation", "subreddit_id": "t5_323oy",
        "subreddit_name_prefixed": "r/CasualConversation", "subreddit_type": "public",
        "ups": number % 40, "user_reports": [], "mod_reports": [], "all_awardings": [],
        "associated_award": None, "author_fullname": f"t2_{number % 9973:x}", "collapsed": False,
        "collapsed_reason": None, "locked": False, "no_follow": True, "send_replies": True,
        "total_awards_received": 0, "treatment_tags": [],
    }  # fmt: skip


def on_ray(benchmark: Benchmark, folder: Path) -> None:
    """The same corpus through Prefect on threads and on a Ray cluster of two workers."""
    dump = folder / "ray-dump"
    dump.mkdir()
    for number in range(FILES):
        (dump / file_name(number)).hardlink_to(folder / file_name(number))
    tables = {}
    seconds = {}
    with ray_cluster() as cluster:
        for runner in ("threads", "ray"):
            output = folder / runner
            command = [
                sys.executable, "-m", "flows.cli", "corpus", "build", "--reader", "pushshift",
                "--input", str(dump), "--output", str(output), "--runner", runner,
            ]  # fmt: skip
            home = {"SAGE_HOME": str(folder / f"home-{runner}"), **cluster}
            seconds[runner], _ = timed(
                lambda command=command, home=home: subprocess.run(
                    command, env={**os.environ, **home}, check=True, capture_output=True
                )
            )
            tables[runner] = [
                (output / name).read_bytes() for name in (DIALOGUES, REJECTED, FUNNEL)
            ]
    same = tables["threads"] == tables["ray"]
    benchmark.add(
        "one unit through Prefect on Ray: the three tables "
        + ("byte for byte those of threads" if same else "DIFFER from those of threads"),
        f"{seconds['ray']:.1f} s",
        f"{seconds['threads']:.1f} s (threads)",
        f"{seconds['threads'] / seconds['ray']:.2f}x",
        "equal bytes",
        same,
    )


if __name__ == "__main__":
    main()
