"""The pages in a browser: nothing leaves the page at any width, and rows open from their links."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from evaluation.test_report import full
from finished_home import finished_run

from sage_core.evaluation.comparison import compare, render_comparison
from sage_core.evaluation.report import render_report
from tasks import runs

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
]
MEASURE = """<script>addEventListener("load", () => parent.postMessage(
  [document.documentElement.scrollWidth, document.documentElement.clientWidth], "*"))</script>"""
FRAME = """<!DOCTYPE html><p id="told"></p><script>addEventListener("message",
  event => document.getElementById("told").textContent = event.data.join(" "))</script>
<iframe src="page.html{anchor}" style="width: {width}px; height: 900px; border: 0"></iframe>"""


def told(folder: Path, html: str, width: int, script: str = MEASURE, anchor: str = "") -> str:
    """What the page says of itself in a frame of ``width`` px."""
    (folder / "page.html").write_text(html.replace("</body>", f"{script}</body>"), "utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, anchor=anchor), "utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
        "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<p id="told">(.*?)</p>', done.stdout)
    assert found, done.stderr[-2000:]
    return found[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("homes")
    found = [finished_run(folder / name, words) for name, words in (("a", 12), ("b", 15))]
    two = [runs.read(runs.find(str(each)), name) for name, each in zip("AB", found, strict=True)]
    return {"report": render_report(full()), "comparison": render_comparison(compare(two))}


@pytest.mark.parametrize("width", [390, 825, 1300])
@pytest.mark.parametrize("page", ["report", "comparison"])
def test_nothing_leaves_the_page(
    pages: dict[str, str], tmp_path: Path, page: str, width: int
) -> None:
    scrolled, shown = map(int, told(tmp_path, pages[page], width).split())
    assert scrolled == shown
    assert 0 < shown <= width


def test_a_link_to_rows_opens_them(pages: dict[str, str], tmp_path: Path) -> None:
    script = """<script>addEventListener("load", () => setTimeout(() => parent.postMessage(
      [document.querySelectorAll("details.data[open]").length], "*"), 500))</script>"""
    assert told(tmp_path, pages["report"], 825, script, "#rows-replies-m1") == "1"
    assert told(tmp_path, pages["report"], 825, script) == "0"
