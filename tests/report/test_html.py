from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from transfuse.errors import StoreError
from transfuse.report.html import Contents, render, write_report
from transfuse.results import store
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.statistics.comparison import Estimate

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed, and gathers the text, the tags and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        links = ("src", "srcset", "poster", "data", "action") + (() if tag == "a" else ("href", "xlink:href"))
        self.loads += [str(values[name]) for name in links if values.get(name)]
        self.loads += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for _, value in attrs))
        assert not any(name.startswith("on") for name in values), "no event attributes"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.loads += re.findall(r"url\(([^)]*)\)|@import\s*(\S+)", data)
        elif self.open and self.open[-1] != "script":
            self.text += data


def still(contents: Contents) -> tuple[str, Page]:
    text = render(contents, interactive=False)
    return text, Page(text)


def test_the_answer_comes_first_and_everything_is_there(contents: Contents) -> None:
    text, page = still(contents)
    headings = re.findall(r"<h[12][^>]*>(.*?)</h[12]>", text)
    assert headings[0] == "Pretrained weights help for cbr_small; can&#39;t tell for resnet18."
    for part in contents.recommendation.models:
        assert part.sentence in page.text
    for wanted in (
        *contents.recommendation.caveats,
        "What limits this answer",
        "How large is the difference?",
        "How do they learn?",
        "Every arm in numbers",
        "How many steps to validation AUROC 0.8?",
        "loss is nan at step 200",
        "120 images of 60 patients",
        "2.13.0",
        "transfuse run demo.yaml",
        contents.study["spec"],
    ):
        assert wanted in page.text, wanted
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("figure") == 2 + 2 + 2 + 2 + 2 + 5  # differences, causes, gains, curves, zooms; samples


def test_nothing_is_loaded_from_anywhere(contents: Contents) -> None:
    text = render(contents)
    loads = Page(text).loads
    assert len(loads) == 11  # ten images and the empty icon
    assert all(load.startswith("data:") for load in loads)
    assert "default-src 'none'" in text
    assert len(text) < 2_000_000


def test_names_cannot_break_the_page(build: Callable[..., Contents]) -> None:
    evil = '</script><script>alert("1")</script><b>'
    arms = {evil: {}, "pretrained": {"depth": "all"}, "'\"<!--": {"depth": 1}}
    contents = build(models=(evil,), arms=arms, diverged=None, notes=(evil,), study={"title": evil, "spec": evil})
    text = render(contents)
    page = Page(text)
    assert page.tags.count("script") == 3  # the definitions, the bundle and our own
    assert "b" not in set(re.findall(r"<(\w+)>alert", text))
    assert text.count("<script>alert") == 0
    assert evil in page.text
    specs = json.loads(re.search(r'id="chart-specs">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert evil in json.dumps(specs).encode().decode("unicode_escape")


def test_a_study_without_runs(build: Callable[..., Contents]) -> None:
    empty = pd.DataFrame()
    contents = build(models=("net",), runs=empty, history=empty, predictions=empty, comparisons=[], estimates=[])
    text, page = still(contents)
    assert "No result yet." in page.text
    assert "No run has finished." in page.text
    assert "no result" in page.text
    assert "<figure class" not in text


def test_nothing_at_all() -> None:
    from transfuse.results.recommend import recommend

    _, page = still(Contents(study={}, recommendation=recommend({}, [])))
    assert "No result yet." in page.text
    assert "No arm has been run." in page.text


def test_one_arm_has_nothing_to_compare(build: Callable[..., Contents]) -> None:
    _, page = still(build(models=("net",), arms={"random": {}}, diverged=None))
    assert "One arm: nothing to compare." in page.text
    assert "How do they learn?" in page.text
    assert "How large is the difference?" not in page.text


def test_one_seed_one_network(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), seeds=1, diverged=None)
    text, page = still(contents)
    assert contents.recommendation.sentence in page.text
    assert text.count('class="cards"') == 0


def test_undefined_metrics_are_said(build: Callable[..., Contents], comparison: Callable[..., object]) -> None:
    from transfuse.results.arms import ArmComparison, ArmEstimate

    nan = float("nan")
    contents = build(
        models=("net",),
        comparisons=[ArmComparison("net", "pretrained", "random", comparison(nan, nan))],
        estimates=[ArmEstimate("net", arm, None, {}) for arm in ("random", "pretrained")],
    )
    contents.runs["test_auroc"] = nan
    _, page = still(contents)
    assert "undefined" in page.text
    assert "nan" not in page.text.replace("loss is nan", "").lower()


def test_forty_arms_and_long_names(build: Callable[..., Contents]) -> None:
    arms = {f"arm with a name that is really rather long, number {i}": {"depth": i} for i in range(40)}
    contents = build(models=("a_network_with_a_very_long_name_" * 3,), arms=arms, seeds=2, diverged=None)
    text, page = still(contents)
    assert all(arm in page.text for arm in arms)
    assert "<details><summary>80 runs" in text
    assert len(text) < 2_000_000


def test_a_lost_seed_leaves_a_gap(contents: Contents) -> None:
    text, _ = still(contents)
    seeds = re.findall(r'<td class="num seeds">(.*?)</td>', text)
    assert len(seeds) == 8
    assert [row.count("<span>") for row in seeds] == [3] * 8
    assert [row.rstrip().endswith("<span>–</span>") for row in seeds] == [False] * 4 + [True] + [False] * 3


def test_failures_are_rows(build: Callable[..., Contents]) -> None:
    failures = ({"model": "cbr_small", "arm": "random", "seed": 7, "run_id": "dead", "reason": "disk <full>"},)
    _, page = still(build(failures=failures))
    assert "disk <full>" in page.text
    assert "1 run failed and left no result (random, seed 7)" in page.text


def test_unfinished_runs_are_no_failures(build: Callable[..., Contents]) -> None:
    state = {"model": "cbr_small", "arm": "random", "role": "arm"}
    failures = (
        {**state, "seed": 7, "run_id": "dead", "state": "failed", "reason": "disk full"},
        {**state, "seed": 8, "run_id": "open", "state": "interrupted", "reason": "goes on from its last checkpoint"},
        {**state, "seed": 0, "run_id": "last", "state": "waiting", "role": "source", "arm": "natural", "reason": ""},
    )
    text, page = still(build(failures=failures, diverged=None))
    limits = re.search(r'id="limits">.*?<ul>(.*?)</div>', text, re.DOTALL).group(1)  # type: ignore[union-attr]
    assert limits.startswith("<li><strong>2 of 27 runs are not finished yet (1 interrupted, 1 waiting)")
    assert "27 runs: 24 finished, 1 failed, 1 interrupted, 1 waiting" in page.text
    rows = re.findall(r'<tr class="(\w*)"><td>(.*?)</td><td>(.*?)</td><td class="num">(\d)</td>', text)
    assert [row for row in rows if row[0]] == [
        ("lost", "cbr_small", "random", "7"),
        ("open", "cbr_small", "random", "8"),
        ("open", "cbr_small", "source natural", "0"),
    ]


def test_runs_without_weights_are_not_said_to_wait(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), arms={"random": {}}, diverged=None)
    source = {"model": "net", "arm": "natural", "role": "source", "status": "diverged", "reason": "loss is nan"}
    runs = pd.concat([contents.runs, pd.DataFrame([source])])
    state = {"model": "net", "arm": "pretrained", "role": "arm", "seed": 0, "state": "waiting"}
    arms = {"random": {}, "pretrained": {"depth": "all"}}
    _, page = still(build(models=("net",), runs=runs, failures=(state,), study={"arms": arms}))
    assert "1 without weights" in page.text
    assert "its source training diverged" in page.text
    assert "waiting" not in page.text
    assert "source natural" in page.text


def test_a_long_list_in_a_caveat_is_set_as_a_list(build: Callable[..., Contents]) -> None:
    note = "At 64 px some lesions are smaller than a pixel (grade 2: 25 of 25; grade 3: 14 of 15; grade 4: 20 of 26)."
    text, page = still(build(notes=(note,)))
    assert "smaller than a pixel:" in page.text
    assert '<ul class="items"><li>grade 2: 25 of 25</li><li>grade 3: 14 of 15</li><li>grade 4: 20 of 26</li>' in text
    assert page.text.count("grade 3: 14 of 15") == 1
    assert '<a href="#limits">' in text


def test_an_arm_without_settings_is_not_called_random(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), diverged=None)
    contents = replace(contents, study={**contents.study, "arms": {"random": {}}})
    text, _ = still(contents)
    assert "<small>weights of arm mean_var</small>" in text


def test_the_same_contents_give_the_same_page(build: Callable[..., Contents]) -> None:
    assert render(build(), interactive=False) == render(build(), interactive=False)


def test_a_report_is_written_whole_or_not_at_all(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(contents, tmp_path / "deep" / "report.html", interactive=False)
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!doctype html>")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(StoreError, match=r"no space left while writing .*report\.html; .*free some"):
        write_report(contents, path, interactive=False)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_folder_that_is_a_file(contents: Contents, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*report\.html"):
        write_report(contents, tmp_path / "file" / "report.html", interactive=False)


def test_a_report_is_on_the_disk_before_it_takes_its_place(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        done.append("fsync")
        sync(handle)

    def noted_replace(old: Path, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_report(contents, tmp_path / "report.html", interactive=False)
    assert done[:2] == ["fsync", "replace"]


def test_importing_the_report_is_cheap() -> None:
    code = (
        "import sys, transfuse.report.html, transfuse.results.recommend;"
        "print([name for name in ('torch', 'altair', 'vl_convert', 'jinja2') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_advice_comes_before_the_numbers_and_one_network_is_not_named_over_every_chart(
    build: Callable[..., Contents],
) -> None:
    none = pd.DataFrame(columns=["run_id", "epoch", "step", "split", "quantity", "value", "seconds"])
    one = build(models=("cbr_small",), history=none)
    page = render(one, interactive=False)
    assert '<p class="advice">Use pretrained weights for cbr_small. They did better than random weights' in page
    assert page.index('class="advice"') < page.index(one.recommendation.sentence.replace("'", "&#39;"))
    assert "<figcaption>cbr_small</figcaption>" not in page
    two = render(build(history=none), interactive=False)
    assert "<figcaption>cbr_small</figcaption>" in two
    assert two.count('<p class="advice">') == 3  # of the study, and of each network


def test_arms_at_chance_are_nowhere_equivalent_on_the_page(
    build: Callable[..., Contents], comparison: Callable[..., ArmComparison]
) -> None:
    two = {"random": {}, "pretrained": {"depth": "all"}}
    alike = [ArmComparison("net", "pretrained", "random", comparison(0.001, 0.01))]
    low = [ArmEstimate("net", arm, Estimate(0.5, 0.45, 0.55, 0.95, "", 60), {0: 0.5}) for arm in two]
    none = pd.DataFrame(columns=["run_id", "epoch", "step", "split", "quantity", "value", "seconds"])
    page = render(build(("net",), two, comparisons=alike, estimates=low, history=none), interactive=False)
    assert "Nothing learned that can be told from chance" in page
    assert "= equivalent" not in page
    assert "not above chance" in page
