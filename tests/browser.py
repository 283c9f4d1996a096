"""A real browser for tests of pages: what Chromium lays out at a width, on a screen or on paper."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_LOOK = """
const page = document.querySelector("iframe").contentDocument, faults = {outside: [], broken: []};
const view = page.documentElement.clientWidth;
for (const element of page.body.querySelectorAll("*")) {
  const box = element.getBoundingClientRect();
  const inside = element.closest(".scroll, .scroll *, svg *, .screen-reader") && !element.matches(".scroll");
  if (box.width && box.right > view + 1 && !inside)
    faults.outside.push(`${element.tagName} ${element.className}`);
}
const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  if (node.parentElement.closest("style, script, .screen-reader")) continue;
  for (const word of node.data.matchAll(/[A-Za-z]+/g)) {
    const range = page.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) faults.broken.push(word[0]);
  }
}
faults.scrolls = page.documentElement.scrollWidth > view;
document.title = JSON.stringify(faults);
"""


def look(path: Path, *, width_px: int) -> dict[str, Any]:
    """Elements that reach outside a page of this width, words that are broken, and if it scrolls sideways.

    What scrolls inside a box of its own is left out.
    """
    frame = f'<iframe style="border: 0; width: {width_px}px; height: 4000px" srcdoc="{html.escape(path.read_text())}">'
    wrapper = path.with_name(f"{path.stem}-{width_px}.look.html")
    wrapper.write_text(f"<body style='margin: 0'>{frame}</iframe><script>onload = () => {{{_LOOK}}}</script>")
    dom = _run("--dump-dom", f"{wrapper}")
    wrapper.unlink()
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None, dom[:500]
    found: dict[str, Any] = json.loads(html.unescape(title.group(1)))
    return found


def print_to(path: Path, pdf: Path) -> None:
    """Print a page as a browser does."""
    _run(f"--print-to-pdf={pdf}", "--no-pdf-header-footer", f"{path}")


def _run(*arguments: str) -> str:
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *options, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
