"""The page says what the files say, verdicts first, in numbers for readers, and no text of a file can run in it."""

import base64
import hashlib
import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from groupppo.algorithm.params import HOME
from groupppo.config import REPOSITORY, Benchmark, load_arm
from groupppo.draw import wording
from groupppo.errors import BadInput
from groupppo.measure.stages import DEFINITION
from groupppo.records.where import Where
from groupppo.report import render
from groupppo.report.page import write_report
from groupppo.report.render import escaped
from groupppo.report.sections import read_verdicts
from groupppo.report.sections.benchmark import arm_differences
from groupppo.report.sections.verdicts import MEANINGS, answer
from groupppo.verdicts.preregistration import register
from groupppo.verdicts.rules import VERDICTS
from groupppo.verl.network import OURS
from tests.report.conftest import build, table_of, verdict
from tests.synthetic import rewrite_json

ATTACK = "<script>alert(1)</script>"
MARKDOWN_ATTACK = f"{ATTACK} | [x](javascript:alert(1)) ![i](http://e.vil/x.png) `a` $x$ **b** @someone www.e.vil"
WARM_START = {"task": "sorting", "step": 575, "sampled_accuracy": 0.415, "greedy_accuracy": 0.463, "seconds": 81.2}


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Path, Benchmark]:
    results = tmp_path_factory.mktemp("quick")
    failed = {("grpo", 3): f"out of memory {MARKDOWN_ATTACK}"}
    return results, build(results, seeds=(1, 2, 3), steps=8, failed=failed)


@pytest.fixture(scope="module")
def text(quick) -> str:
    results, benchmark = quick
    return write_report(results, benchmark).read_text(encoding="utf-8")


@pytest.fixture
def spare(quick, tmp_path) -> tuple[Path, Benchmark]:
    """The same results, small files copied and figures shared, for tests that break or change something."""
    results, benchmark = quick
    for file in results.rglob("*.*"):
        if file.is_file() and file.name != "report.html":
            copy = tmp_path / file.relative_to(results)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return tmp_path, benchmark


def rendered(spare: tuple[Path, Benchmark]) -> str:
    return write_report(*spare).read_text(encoding="utf-8")


def noisy(judged: dict) -> dict:
    """The item noise of the first verdict that has any."""
    return next(entry["item_noise"] for entry in judged["verdicts"] if entry["item_noise"])


def section(page_text: str, name: str) -> str:
    return re.search(rf'<section id="{name}">(.*?)</section>', page_text, re.DOTALL).group(1)


def test_the_verdict_table_is_the_first_table_and_comes_before_any_figure(text):
    assert re.search(r"<table[^>]*>", text).group(0) == '<table id="verdict-table" class="sortable">'
    assert text.index("<table") < text.index("<img")
    order = [text.index(f'<section id="{name}">') for name in ("excluded", "figures", "matrix", "arms", "settings")]
    assert order == sorted(order)


def given(kind: str, *, asked: bool = True, published: bool | None = None):
    """A verdict; one on measurements from elsewhere where it is said whether these are published."""
    return verdict(verdict=kind, asked=asked, elsewhere=None if published is None else Where("x", published, "", ""))


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ([], "No claim was tested on what was run here."),
        (
            [given("refuted"), given("identity"), given("refuted")],
            "3 verdicts on what was run here: 2 refuted, 1 identity.",
        ),
        (
            [given("refuted"), given("supported", published=True), given("refuted", asked=False)],
            "1 verdict on what was run here: 1 refuted. 1 verdict on published measurements, not made here: 1 "
            "supported.",
        ),
        (
            [given("supported", published=False), given("supported", published=True)],
            "No claim was tested on what was run here. 2 verdicts on measurements made elsewhere: 2 supported.",
        ),
    ],
)
def test_the_answer_counts_verdicts_those_from_elsewhere_apart_and_unasked_ones_not(verdicts, told):
    assert answer(verdicts) == told


def test_every_verdict_that_can_be_given_is_explained():
    assert {kind for kind, _ in MEANINGS} == set(VERDICTS)


def test_claims_that_a_benchmark_does_not_ask_are_named_apart(spare):
    file = spare[0] / "verdicts.json"
    verdicts = json.loads(file.read_text())["verdicts"]
    away = verdicts[0]["id"]
    for one in verdicts:
        one["asked"] = one["id"] != away
    rewrite_json(file, verdicts=verdicts)
    shown = [row[1].text.text for row in table_of(*spare, "verdicts").cells]
    assert shown == list(dict.fromkeys(one["id"] for one in verdicts[1:]))
    assert f'What this benchmark leaves out (1 claim)</summary>\n<ul class="notes">\n<li>{away}: ' in rendered(spare)


def test_the_page_names_the_claims_files_and_how_many_claims_have_no_arm_here(spare):
    results, benchmark = spare
    named = benchmark.claims_files
    told = r"Claims of group_ppo: (\d+), (\d+) of them about arms that this benchmark does not have"
    of_runs, left_out = map(int, re.search(told, rendered(spare)).groups())
    assert 0 < left_out < of_runs
    more = replace(benchmark, claims=(*named, named[0].with_name("spo.yaml")))
    assert f"Claims of group_ppo, spo: {of_runs + 2}, {left_out + 2} of them" in rendered((results, more))
    assert "of them about arms" not in rendered((results, replace(benchmark, claims=named[0])))


def test_each_verdict_is_shown_with_its_estimate_interval_and_reason(quick, text):
    for entry in json.loads((quick[0] / "verdicts.json").read_text())["verdicts"]:
        assert str(escape(entry["claim"])) in text
        assert str(escape(entry["reason"])) in text
        assert f">{entry['verdict']}</span>" in text
        assert wording.quantity(entry["estimate"], entry["unit"]) in text
        if entry["low"] is not None:
            assert wording.interval(entry["low"], entry["high"], entry["unit"]) in text


def test_the_page_says_whether_claims_were_fixed_before_the_first_run(spare):
    results, benchmark = spare
    assert "No stamp says what was fixed" in rendered(spare)
    register(results, benchmark)
    text = rendered(spare)
    assert "are those that were registered when the first run started" in text
    assert 'class="changed"' not in text
    later = replace(benchmark, seeds=(*benchmark.seeds, 9))
    text = write_report(results, later).read_text(encoding="utf-8")
    assert "1 value changed after the first run started" in text
    assert "<code>matrix.<wbr>seeds</code>" in text


def test_verdicts_link_to_figures_that_are_on_the_page(text):
    links = set(re.findall(r'href="#(figure-[a-z_]+)"', text))
    assert links
    for link in links:
        assert f'id="{link}"' in text


def test_a_figure_that_a_verdict_names_but_nobody_drew_is_not_linked(spare):
    verdicts = json.loads((spare[0] / "verdicts.json").read_text())
    verdicts["verdicts"][0]["figure"] = "nowhere"
    rewrite_json(spare[0] / "verdicts.json", **verdicts)
    assert "figure-nowhere" not in rendered(spare)


def test_excluded_runs_stand_with_their_reasons(text):
    assert "out of memory" in section(text, "excluded")
    assert "9 runs, 1 excluded" in text


def test_the_matrix_has_a_row_for_each_run_and_shows_what_happened(quick, text):
    rows = re.findall(r"<tr>.*?</tr>", section(text, "matrix"), re.DOTALL)[1:]
    assert len(rows) == 9
    assert "8 of 8" in rows[0]
    assert re.search(r"0\.800 ± 0\.013", rows[0])
    assert "4 of 8" in rows[5]
    assert "failed" in rows[5]
    assert 'href="runs/sorting/tiny/grpo/seed3/status.json"' in rows[5]


def shown_keys(benchmark: Benchmark) -> dict[str, list[str]]:
    """The table of how arms differ, by key."""
    table = arm_differences(benchmark)
    keys = [head.text for head in table.head[1:]]
    return {key: [row[place].text.text for row in table.cells] for place, key in enumerate(keys, 1)}


def test_arms_are_shown_by_the_keys_in_which_they_differ(quick, text):
    _, benchmark = quick
    shown = shown_keys(benchmark)
    assert arm_differences(benchmark).cells[0][0].text == benchmark.arms[benchmark.reference].title
    assert shown["algorithm.adv_estimator"] == ["gae", "grpo", "group_ppo"]
    assert shown["algorithm.group_params.rule"] == ["not set", "not set", "variance_split"]
    same = replace(benchmark, arms={"ppo": benchmark.arms["ppo"], "group_ppo": benchmark.arms["group_ppo"]})
    assert "critic.enable" not in shown_keys(same)
    assert "algorithm.<wbr>group_params.<wbr>rule" in section(text, "arms")


def test_an_arm_that_leaves_a_key_out_is_shown_with_the_default_it_gets(quick):
    _, benchmark = quick
    arm = benchmark.arms["group_ppo"]
    stride = replace(arm, name="stride", verl=arm.verl | {"algorithm.group_params.rule": "stride"})
    bare = replace(
        stride, verl={key: value for key, value in stride.verl.items() if not key.endswith((".score", ".spread"))}
    )
    shown = shown_keys(replace(benchmark, arms=benchmark.arms | {"stride": bare}))
    assert shown["algorithm.group_params.spread"] == ["not set", "not set", "endpoint", "endpoint"]
    assert shown["algorithm.group_params.score"] == ["not set", "not set", "unit", "not set"]  # a stride has no score


def test_an_arm_that_chooses_tokens_for_an_estimator_of_verls_is_shown_with_that_estimators_advantages(quick):
    _, benchmark = quick
    chosen = load_arm(REPOSITORY / "benchmarks/arms/grpo_random.yaml")
    own = replace(chosen, name="own", verl=benchmark.arms["group_ppo"].verl | {f"{HOME}.advantage": "token_gae"})
    shown = shown_keys(replace(benchmark, arms=benchmark.arms | {"grpo_random": chosen, "own": own}))
    assert shown[f"{HOME}.advantage"] == ["not set", "not set", "segment_gae", "stock", "token_gae"]


def test_matched_settings_have_the_keys_of_the_benchmark_s_file(text):
    settings = section(text, "settings")
    assert re.search(r">train.prompts_per_step</th><td[^>]*>16<", settings)
    assert "20,000 training and 1,000 held-out prompts" in settings


def test_the_warm_start_is_shown_when_its_record_is_there(spare):
    assert "no record of the warm start" in section(rendered(spare), "start")
    file = spare[0] / "assets" / "starts" / "sorting" / "tiny" / "warmstart.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(WARM_START), encoding="utf-8")
    assert re.search(r"575.*41\.5 %.*40\.0 %.*46\.3 %.*81\.2 s", section(rendered(spare), "start"), re.DOTALL)


def test_provenance_is_shown_once_where_runs_agree_and_by_run_where_they_differ(spare):
    results, benchmark = spare
    shared = {row[0].text.text: row[1].text for row in table_of(results, benchmark, "provenance").cells}
    assert shared["torch"] == "2.13.0"
    assert "Keys that differ" not in rendered(spare)
    told = {"host": "another", "git": {"commit": "abc", "changes": None}, "cores": 7, "network": OURS}
    rewrite_json(results / "runs/sorting/tiny/ppo/seed2/provenance.json", **told)
    after = section(rendered(spare), "provenance")
    assert "Keys that differ between runs" in after
    for key, value in (("host", "another"), ("git.<wbr>commit", "abc"), ("git.<wbr>changes", "null"), ("cores", "7")):
        assert f'<code>{key}</code></th><td class="break">{value}</td><td>PPO (dense), seed 2</td>' in after
    assert re.search(r"<code>host</code></th><td[^>]*>synthetic</td><td>(.*?)</td>", after).group(1).count(";") == 7
    assert "benchmarks/site.yaml says that it is ours" in after


def test_runs_without_provenance_are_named(spare):
    (spare[0] / "runs/sorting/tiny/grpo/seed3/provenance.json").unlink()
    assert "No provenance was recorded for: GRPO, seed 3." in rendered(spare)


def test_the_memory_definition_and_the_limits_are_stated(text):
    method = section(text, "method")
    assert str(escape(DEFINITION)) in method
    assert "unit of replication is the training seed" in method
    assert "Runs trained on: cpu." in method


@pytest.fixture
def hostile(spare) -> tuple[str, str]:
    """Page and Markdown of results in which every text that comes from a file is an attack."""
    results, benchmark = spare
    arm = replace(benchmark.arms["ppo"], title=f"PPO {MARKDOWN_ATTACK}", description=ATTACK)
    named = replace(benchmark, title=MARKDOWN_ATTACK, arms=benchmark.arms | {"ppo": arm})
    judged = json.loads((results / "verdicts.json").read_text())
    first = judged["verdicts"][0]
    for key in ("claim", "source", "reading", "reason", "unit", "what_would_change", "replicates"):
        first[key] = f"{key} {MARKDOWN_ATTACK}\n\n# big"
    first["evidence"] = {"table": f"a{ATTACK}", "file": f"javascript:{ATTACK}", "rows": ATTACK}
    noisy(judged)["reason"] = judged["claims_sha256"] = ATTACK
    register(results, replace(benchmark, title=f"before {ATTACK}"))
    rewrite_json(results / "verdicts.json", **judged)
    rewrite_json(results / "runs/sorting/tiny/ppo/seed1/provenance.json", **{ATTACK: ATTACK, "host": f'"{ATTACK}'})
    records = json.loads((results / "figures" / "figures.json").read_text())
    image = f'"><img src=x onerror=alert(1)>]({MARKDOWN_ATTACK}'
    records[0] |= {"title": MARKDOWN_ATTACK, "caption": MARKDOWN_ATTACK, "alt": image}
    (results / "figures" / "figures.json").write_text(json.dumps(records))
    text = write_report(results, named).read_text(encoding="utf-8")
    return text, (results / "report.md").read_text(encoding="utf-8")


def test_text_from_files_cannot_become_markup(hostile):
    text, _ = hostile
    assert ATTACK not in text
    assert text.count(html.escape(ATTACK)) > 15
    assert "<img src=x" not in text
    assert not re.search(r'href="[^"]*javascript:', text)
    assert text.count("<script>") == 1


def test_no_text_from_a_file_is_markdown(hostile):
    _, markdown = hostile
    assert markdown.count("alert(1)") >= 8
    for raw in ("<script", " | [x]", "[x](", "![i]", "://e.vil", "`a`", " $x", "**b**", "@someone", "www.e", "\n# big"):
        assert not re.search(rf"(?<!\\){re.escape(raw)}", markdown), raw
    assert "\n# " not in markdown[2:]


def test_the_policy_allows_no_request_and_only_the_page_s_own_script_and_style(text):
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text).group(1))
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_nothing_on_the_page_points_to_the_network(text):
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', text)
    sources = re.findall(r'<img src="([^"]{20})', text)
    assert len(sources) == 9
    assert all(source.startswith("data:image/svg+xml") for source in sources)
    assert " style=" not in text


def test_every_link_to_a_file_leads_to_a_file(quick, text):
    links = set(re.findall(r'href="([^"#:]+)"', text))
    assert {"verdicts.json", "benchmark.yaml", "tables/runs.parquet", "figures/reward.csv"} <= links
    for link in links:
        assert (quick[0] / link).is_file(), link


def test_the_page_stays_small_and_a_large_drawing_is_inlined_as_png(quick, text, spare, monkeypatch):
    assert len(text.encode()) < 3_000_000
    assert "data:image/png" not in text
    monkeypatch.setattr(render, "LARGEST_SVG", 10)
    assert rendered(spare).count("data:image/png") == 9


def test_a_figure_that_is_not_drawn_is_explained(spare):
    index = spare[0] / "figures" / "figures.json"
    records = json.loads(index.read_text())
    records[1] |= {"files": {}, "caption": "Not drawn: for a reason.", "alt": ""}
    index.write_text(json.dumps(records))
    text = rendered(spare)
    assert "Not drawn: for a reason." in text
    assert text.count("<img ") == 8


def test_the_page_is_replaced_as_a_whole_or_not_at_all(spare, monkeypatch):
    report = spare[0] / "report.html"
    report.write_text("the page before", encoding="utf-8")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="disk full"):
            rendered(spare)
    assert report.read_text(encoding="utf-8") == "the page before"
    assert rendered(spare) != "the page before"


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda judged: judged.pop("level"), "level"),
        (lambda judged: judged["verdicts"][1].pop("reason"), r"verdicts\[1\].reason"),
        (lambda judged: judged["verdicts"][0].update(verdict="proven"), r"verdicts\[0\].verdict = 'proven'"),
        (lambda judged: judged["verdicts"][0].update(elsewhere={"folder": "x"}), r"verdicts\[0\].elsewhere"),
        (lambda judged: judged["verdicts"][0].pop("elsewhere"), r"verdicts\[0\].elsewhere = missing"),
        (lambda judged: noisy(judged).update(share="<b>"), r"item_noise.share = '<b>'"),
        (lambda judged: noisy(judged).update(reason=None), r"item_noise.reason = "),
        (lambda judged: noisy(judged).update(bound="no"), r"item_noise.bound = 'no'"),
    ],
)
def test_verdicts_of_another_form_are_refused_by_key(quick, tmp_path, break_it, named):
    file = tmp_path / "verdicts.json"
    judged = json.loads((quick[0] / "verdicts.json").read_text())
    file.write_text(json.dumps(judged), encoding="utf-8")
    assert len(read_verdicts(file).verdicts) == len(judged["verdicts"])
    break_it(judged)
    file.write_text(json.dumps(judged), encoding="utf-8")
    with pytest.raises(BadInput, match=named):
        read_verdicts(file)


@pytest.mark.parametrize("name", ["verdicts.json", "figures/figures.json", "figures/reward.png", "tables/runs.parquet"])
def test_a_missing_file_is_named(spare, name):
    (spare[0] / name).unlink()
    with pytest.raises(BadInput, match=Path(name).name):
        rendered(spare)


def test_numbers_are_written_for_readers():
    numbers = {0.84321: "0.843", 0: "0", 12.34: "12.3", 12345.6: "12,346", 0.000021: "2.1e-05", -math.inf: "-infinity"}
    assert {value: wording.number(value) for value in numbers} == numbers
    assert wording.number(None) == wording.number(math.nan) == wording.MISSING
    assert [wording.ratio(1.0249), wording.ratio(1234.5), wording.percentage(0.9375)] == ["1.02x", "1,234x", "93.8 %"]
    times = {0.0123: "12.3 ms", 0.529: "0.53 s", 12.34: "12.3 s", 119.96: "120.0 s", 900: "15 min 00 s"}
    times |= {3599.7: "1 h 00 min", 7384: "2 h 03 min"}
    assert {value: wording.seconds_text(value) for value in times} == times
    sizes = {256e6: "256 MB", 4.049e9: "4.05 GB", 999.9e6: "1 GB", 512: "512 B"}
    assert {value: wording.in_bytes(value) for value in sizes} == sizes
    assert [wording.plural(count, "run") for count in (1, 0)] == ["1 run", "0 runs"]
    units = {"difference in accuracy": "+0.041", "share of positions": "4.1 %", "tokens per endpoint": "0.041"}
    assert {unit: wording.quantity(0.0412, unit) for unit in units} == units
    assert (wording.interval(0.977, 1.023, "x"), wording.interval(None, None, "x")) == ("[0.98x, 1.02x]", "")


def test_the_markdown_page_has_the_verdicts_and_the_figures_of_the_page(spare):
    text = rendered(spare)
    markdown = (spare[0] / "report.md").read_text(encoding="utf-8")
    for entry in json.loads((spare[0] / "verdicts.json").read_text())["verdicts"]:
        if entry["asked"]:
            row = next(line for line in markdown.splitlines() if f" | {escaped(entry['id'])} | " in line)
            assert f"**{entry['verdict']}**" in row
            assert row.count(" | ") == 6
    for link in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown):
        assert (spare[0] / link).is_file()
    assert markdown.count("![") == text.count("<img ")


def test_what_is_compared_comes_first_and_an_arm_that_clips_what_cannot_be_clipped_is_noted(spare):
    results, benchmark = spare
    ppo = benchmark.arms["ppo"]
    clips = replace(ppo, verl=ppo.verl | {"actor_rollout_ref.actor.clip_ratio_high": 0.28})
    assert "<strong>Note:</strong>" not in rendered(spare)
    assert "**Note:**" not in (results / "report.md").read_text()
    assert "beside the algorithm" not in (results / "report.html").read_text() + (results / "report.md").read_text()
    noted = replace(benchmark, arms=benchmark.arms | {"ppo": clips}, compares=("critic.ppo_epochs",))
    head = rendered((results, noted)).partition("</header>")[0]
    first = "Arms differ in critic.ppo_epochs beside the algorithm"
    assert 0 < head.index(first) < head.index('class="answer"')
    markdown = (results / "report.md").read_text().split("\n")
    assert markdown[2].startswith("**Arms differ in critic.ppo\\_epochs beside the algorithm")
    said = "ppo sets actor_rollout_ref.actor.clip_ratio_high, which cannot act"
    assert said in head
    assert "**Note:** ppo sets" in (results / "report.md").read_text()
