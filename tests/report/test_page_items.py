"""Every accuracy comparison shows how much of its interval is item noise, in tables and words."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING, percentage
from groupppo.report.page import write_report
from groupppo.report.sections import items
from groupppo.report.sections.verdicts import share_in_words
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import read_studied
from groupppo.verdicts.item_share import ItemShare
from tests.report.conftest import prepare
from tests.synthetic import ITEMS, rewrite_json, write_results


@pytest.fixture(scope="module", autouse=True)
def no_figures(only_figures) -> None:
    only_figures()


def with_samples(results: Path, benchmark: Benchmark) -> None:
    """Of every evaluation the samples that lm-eval would have left, and its accuracy as their mean."""
    rng = np.random.default_rng(0)
    for file in sorted(results.glob("evals/**/result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        scores = (rng.random(ITEMS) < result["metrics"]["accuracy"]["value"]).astype(float)
        lines = (json.dumps({"doc_id": item, "accuracy": score}) for item, score in enumerate(scores))
        (file.parent / "samples_sorting_greedy_2026.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        value = float(scores.mean())
        accuracy = {"value": value, "stderr": math.sqrt(value * (1 - value) / ITEMS), "n": ITEMS}
        rewrite_json(file, metrics=result["metrics"] | {"accuracy": accuracy})


def reported(results: Path, benchmark: Benchmark, tables: Tables) -> tuple[dict[str, dict], str, str]:
    """Item noise by claim, the page and the Markdown."""
    judged = prepare(results, tables, benchmark, read_studied(results, benchmark, load_claims(benchmark.claims)))
    text = write_report(results, benchmark).read_text(encoding="utf-8")
    noise = {entry["id"]: entry["item_noise"] for entry in judged["verdicts"] if entry["item_noise"]}
    return noise, text, (results / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def with_and_without(tmp_path_factory) -> dict[bool, tuple[dict[str, dict], str, str]]:
    """The same benchmark with samples of its evaluations and, as a control, without."""
    found = {}
    for samples in (True, False):
        results = tmp_path_factory.mktemp("results")
        benchmark = write_results(results, seeds=(1, 2, 3))
        if samples:
            with_samples(results, benchmark)
        collect(results, benchmark)
        found[samples] = reported(results, benchmark, load_tables(results / "tables"))
    return found


def table(text: str) -> str:
    return re.search(r'<section id="items">(.*?)</section>', text, re.DOTALL).group(1)


def test_each_comparison_has_a_row_with_its_shares_and_widths_and_a_sentence(with_and_without):
    noise, text, markdown = with_and_without[True]
    assert set(noise) == {"parity-ppo", "parity-grpo"}
    for name, found in noise.items():
        row = re.search(rf"<tr><th[^>]*>{name}.*?</tr>", table(text), re.DOTALL).group(0)
        assert percentage(found["share"]) in row
        assert items.half(found["of_seeds"]) in row
        assert f"<td>{found['more']}</td>" in row
        assert f"| {name} (" in markdown
        assert share_in_words(ItemShare(**found)) in text
        assert f"More {found['more']} would help more" in found["reason"]
        assert f"<li>{name}: {found['reason']}</li>" in text
        assert re.search(rf"^- {name}: Items make .* of the variance over seeds", markdown, re.MULTILINE)
    assert (items.half(None), items.half(0.0)) == (MISSING, "±0")


def test_without_scores_by_item_the_page_says_at_most_and_why_no_more(with_and_without):
    """Negative control: nothing of what the scores would have told is made up."""
    noise, text, _ = with_and_without[False]
    assert all(found["bound"] for found in noise.values())
    assert "at most" in table(text)
    assert "no scores by item; evaluate this checkpoint again" in table(text)
    assert not re.search(r"<td>(items|seeds)<", table(text))
    assert "would help more:" not in text


def test_a_benchmark_without_an_accuracy_interval_has_no_such_section(tmp_path):
    benchmark = write_results(tmp_path, seeds=(1,))
    collect(tmp_path, benchmark)
    noise, text, markdown = reported(tmp_path, benchmark, load_tables(tmp_path / "tables"))
    assert noise == {}
    assert '<section id="items">' not in text
    assert 'href="#items"' not in text
    assert "Noise of the held-out items" not in markdown
