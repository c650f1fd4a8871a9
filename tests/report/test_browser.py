from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from transfuse.report.html import Contents, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--enable-logging=stderr", "--v=0"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-features=NetworkTimeServiceQuerying"),
    *("--virtual-time-budget=20000", "--window-size=1000,3000"),
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")


def open_page(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what the console said."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    command = [str(BROWSER), *FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return shown.stdout, [line for line in shown.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_draws_itself_without_network_and_without_error(
    contents: Contents, tmp_path: Path, dark: bool
) -> None:
    page = write_report(contents, tmp_path / "report.html")
    flags = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    document, console = open_page(page, tmp_path / "profile", *flags)
    assert console == []  # a request would be here too: the page's own policy refuses it, as the next test shows
    assert 'data-charts="ready"' in document
    assert document.count('<svg xmlns="http://www.w3.org/2000/svg"') >= 6
    assert document.count("vega-embed") >= 6


@pytest.mark.slow
def test_a_request_would_be_refused_and_seen(contents: Contents, tmp_path: Path) -> None:
    page = write_report(contents, tmp_path / "report.html", interactive=False)
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", '<img src="https://example.org/x.png" alt=""></body>'), encoding="utf-8")
    _, console = open_page(page, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
