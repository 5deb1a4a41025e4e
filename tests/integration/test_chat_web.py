"""``sage chat --web`` in a real browser: the system's Chromium, driven by Playwright."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("nicegui", reason="the extra 'chat' is not installed")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra 'integration' is not installed"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.alone,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH; install the package"),
]
START_S = 240
if CHROMIUM:
    playwright.expect.set_options(timeout=60_000)  # milliseconds; a busy machine answers slowly


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(home: Path, port: int) -> subprocess.Popen[str]:
    # NiceGUI behaves differently where it thinks that it runs inside a test.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.Popen(
        [
            sys.executable, "-m", "flows.cli", "chat", "--web", "--port", str(port),
            "--model", "m1", "--preset", "tiny", "--set", "model.base=tiny",
            "--force", "motivation=quixotic", "--boost", "emotion=sad:2.5",
            # Room for the longest states there are, so that every reply says something.
            "--set", "model.max_context=2048",
            "--set", "evaluation.selfplay.sampling.max_new_tokens=800",
            "--set", "evaluation.selfplay.sampling.max_state_tokens=800",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**own, "SAGE_HOME": str(home), "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def server(tiny_home: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    port = free_port()
    process = start(tiny_home, port)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urlopen(address, timeout=2):
                    break
            except (URLError, OSError):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, f"{address} did not answer in {START_S} s"
                time.sleep(0.5)
        yield address, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Containers forbid Chromium's sandbox; the page is our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1150, "height": 900})
        browser.close()


def say(page: Any, text: str, turns: int) -> None:
    """Say something, and wait until there are that many turns."""
    page.get_by_placeholder("Say something").fill(text)
    page.get_by_role("button", name="Send").click()
    playwright.expect(page.locator(".q-message")).to_have_count(turns)


def test_a_conversation_on_the_page(
    server: tuple[str, subprocess.Popen[str]], page: Any, tmp_path: Path
) -> None:
    address, process = server
    expect = playwright.expect
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_function("window.did_handshake")
    expect(page.get_by_text("SAGE: m1")).to_be_visible()
    expect(page.get_by_text("boost agent.emotion=sad:2.5")).to_be_visible()

    # What is typed is text, and the reply comes with its states as chips.
    say(page, "I waited <b>long</b> {a_emotion: sad}", turns=2)
    expect(page.get_by_text("I waited <b>long</b> {a_emotion: sad}")).to_be_visible()
    expect(page.locator(".q-chip").get_by_text("quixotic").first).to_be_visible()

    # A slider changes the steering; so do the fields, where they can.
    slider = page.get_by_role("slider", name="agent.emotion=caring")
    slider.click()
    value = r"boost agent\.emotion=caring:[34]\.\d"
    expect(page.get_by_text(re.compile(value))).to_be_visible()
    force = page.get_by_label("emotion=playful, then Enter")
    for text in ("emotion=zany", "mood=bad"):
        force.fill(text)
        force.press("Enter")
    expect(page.get_by_text("force agent.emotion=zany")).to_be_visible()
    expect(page.get_by_text("'agent.mood' is not a field")).to_be_visible()
    say(page, "And it rained.", turns=4)
    expect(page.locator(".q-message").last).to_be_visible()
    expect(page.locator(".q-chip").get_by_text("zany", exact=True)).to_be_visible()

    # Another visit sees the same conversation; it can be taken away, and forgotten.
    page.reload()
    page.wait_for_function("window.did_handshake")
    expect(page.locator(".q-message")).to_have_count(4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "chat.jsonl")
    turns = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text("utf-8").splitlines()]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[3]["agent"]["emotion"] == "zany"
    boosts = turns[3]["steering"]["boost"]
    assert any(re.fullmatch(value.removeprefix("boost "), boost) for boost in boosts)
    page.get_by_role("button", name="Reset").click()
    expect(page.locator(".q-message")).to_have_count(0)

    # Nothing was fetched from elsewhere, and strangers' names for loopback are refused.
    assert {url.split("/")[2] for url in asked if "://" in url} == {address.removeprefix("http://")}
    with pytest.raises(URLError, match="400"):
        urlopen(Request(address, headers={"Host": "stranger.example"}), timeout=5)

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert address in output
    assert "Traceback" not in output


def test_a_taken_port_is_one_message(tiny_home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(tiny_home, taken.getsockname()[1])
        output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 2, output
    assert "choose another" in output
    assert "Traceback" not in output
