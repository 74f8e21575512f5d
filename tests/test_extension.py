"""A task, a model, an arm, a rule, a study, a figure and a section are each added by one new file and no other edit.

The files are those that docs/howto shows. They are added to a copy of the repository, whose own commands then load,
check, list, compose and plan them: the copy's package is the one that is imported there.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.conftest import shared_cache
from tests.docs.pages import files, write
from tests.synthetic import write_results

PACKAGE = ("Snakefile", "workflow", "benchmarks", "groupppo", "environment.yml")


@dataclass(frozen=True)
class Added:
    """One new thing: what a benchmark or an arm calls it, the page that shows its file, and the folder it goes to."""

    kind: str
    name: str
    page: str
    folder: str

    @property
    def path(self) -> str:
        code = ("rule", "study", "figure", "section")
        return f"{self.folder}/{self.name}.{'py' if self.kind in code else 'yaml'}"

    @property
    def text(self) -> str:
        return files(self.page)[self.path]


TASK = Added("task", "sorting_long", "howto/task.md", "benchmarks/tasks")
MODEL = Added("model", "medium", "howto/model.md", "benchmarks/models")
ARM = Added("arm", "group_ppo_small", "howto/arm.md", "benchmarks/arms")
RULE = Added("rule", "low_prob_stride", "howto/rule.md", "groupppo/algorithm/rules")
STUDY = Added("study", "lengths", "howto/study.md", "groupppo/studies")
USES_RULE = Added("arm", "low_prob_stride", "howto/rule.md", "benchmarks/arms")
FIGURE = Added("figure", "response_tokens", "howto/figure.md", "groupppo/report/figures")
SECTION = Added("section", "seeds", "howto/figure.md", "groupppo/report/sections")
NEW = [TASK, MODEL, ARM, RULE]

COMPOSED = """
import json, sys
from pathlib import Path
import groupppo
from groupppo.config import load_benchmark
from groupppo.verl.compose import Cell, compose
there = Path.cwd() / "groupppo"
assert Path(groupppo.__file__).parent == there, groupppo.__file__
bench = load_benchmark("benchmarks/extended.yaml")
found = []
for task in bench.tasks.values():
    for model in bench.models.values():
        for arm in bench.arms.values():
            folder = Path("results")
            config = compose(Cell(task, model, arm, 1, bench.train, folder, folder, folder))
            group = dict(config.algorithm.group_params)
            found.append([task.name, model.name, arm.name, config.data.max_response_length, group["rule"]])
print(json.dumps(found))
"""

GROUPED = """
import torch
from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens
likely = torch.tensor([[.99, .5, .99, .99, .99, .99, .99], [.99, .99, .99, .99, .99, .2, .99]]).log()
mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1, 1]], dtype=torch.bool)
params = GroupParams.from_config({"rule": "low_prob_stride", "group_max_size": 4})
groups = group_tokens(Tokens(mask, log_probs=likely), params)
print([[Cause(int(c)).name for c in row if c] for row in groups.cause], groups.endpoints.int().tolist())
"""

REPORTED = """
import json, sys
from pathlib import Path
from groupppo.config import load_benchmark
from groupppo.report.figures import draw_figures, needed
from groupppo.report.page import write_report
from groupppo.tables import StoredTables
results, benchmark = Path(sys.argv[1]), load_benchmark("benchmarks/extended.yaml")
judged = json.loads((results / "verdicts.json").read_text())
records = draw_figures(StoredTables(results / "tables", needed(benchmark)), benchmark, results / "figures", judged)
write_report(results, benchmark)
print(json.dumps([record.id for record in records]))
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository's code and benchmarks, nothing computed, with a matrix that names what is to come."""
    for name in PACKAGE:
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    (tmp_path / "profiles").symlink_to((REPOSITORY / "profiles").readlink())
    return tmp_path


def python(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the clone, whose package comes before the installed one."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    environment |= {"XDG_CACHE_HOME": shared_cache(clone), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=300)


def groupppo(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(clone, "-m", "groupppo.cli", *arguments)


def plan(clone: Path) -> subprocess.CompletedProcess[str]:
    return python(clone, "-m", "snakemake", "--cores", "1", "-n", "--config", "benchmark=benchmarks/extended.yaml")


def name_in_matrix(clone: Path, *news: Added) -> None:
    """The use of what was added: a benchmark of its own that names it, beside what was there."""
    data = yaml.safe_load((clone / "benchmarks" / "quick.yaml").read_text()) | {"name": "extended", "studies": []}
    del data["profile"]
    for new in news:
        data[f"{new.kind}s"] = [*data[f"{new.kind}s"], new.name]
    (clone / "benchmarks" / "extended.yaml").write_text(yaml.safe_dump(data))


def contents(clone: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(clone)): file.read_bytes()
        for name in PACKAGE
        for file in ([clone / name] if (clone / name).is_file() else (clone / name).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def add(clone: Path, *news: Added) -> None:
    """Write the file of each; what else changes in the repository is an error."""
    before = contents(clone)
    for new in news:
        assert not (clone / new.path).exists(), "the repository has one already"
        write(clone, new.path, new.text)
    assert contents(clone) == before | {new.path: new.text.encode() for new in news}


@pytest.mark.parametrize("new", [TASK, MODEL, ARM], ids=lambda new: new.kind)
def test_one_new_file_is_valid_and_listed_and_without_it_is_neither(new: Added, clone: Path) -> None:
    assert new.name not in groupppo(clone, "ls", f"{new.kind}s").stdout.split()
    assert groupppo(clone, "validate", new.path).returncode == 1
    add(clone, new)
    done = groupppo(clone, "validate", new.path)
    assert done.returncode == 0, done.stderr
    assert f"{new.path}: ok ({new.kind})" in done.stdout
    assert new.name in groupppo(clone, "ls", f"{new.kind}s").stdout.split()


def test_a_third_task_a_third_model_an_arm_and_a_rule_are_composed_and_planned(clone: Path) -> None:
    add(clone, *NEW)
    write(clone, USES_RULE.path, USES_RULE.text)
    name_in_matrix(clone, TASK, MODEL, ARM, USES_RULE)
    done = python(clone, "-c", COMPOSED)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 2 * 2 * 5
    assert ["sorting_long", "medium", "low_prob_stride", 160, "low_prob_stride"] in found
    assert ["sorting_long", "tiny", "group_ppo_small", 160, None] in found  # the default of group_ppo
    planned = plan(clone)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    said = planned.stdout + planned.stderr
    assert "train low_prob_stride seed 2 on sorting_long with medium" in said
    assert "build task sorting_long" in said
    assert "build model medium" in said
    assert "warm start medium on sorting_long" in said


@pytest.mark.parametrize("new", [TASK, MODEL, ARM], ids=lambda new: new.kind)
def test_a_name_without_its_file_stops_the_plan_and_names_the_folder(new: Added, clone: Path) -> None:
    name_in_matrix(clone, new)
    planned = plan(clone)
    said = planned.stdout + planned.stderr
    assert planned.returncode != 0
    assert f"{new.kind}s = '{new.name}'" in said
    assert f"no such file {new.path}" in said
    assert "Traceback" not in said


def test_a_new_study_is_planned_and_has_a_command_line_and_without_its_file_it_is_refused(clone: Path) -> None:
    file = clone / "benchmarks" / "quick.yaml"
    data = yaml.safe_load(file.read_text()) | {"name": "extended", "studies": [STUDY.name]}
    del data["profile"]
    (clone / "benchmarks" / "extended.yaml").write_text(yaml.safe_dump(data))
    planned = plan(clone)
    assert "studies = 'lengths'" in planned.stdout + planned.stderr
    add(clone, STUDY)
    planned = plan(clone)
    assert "study lengths on sorting with tiny" in planned.stdout + planned.stderr
    done = python(clone, "-m", "groupppo.studies", STUDY.name, "--help")
    assert "Responses of each mean length." in done.stdout


def test_a_new_rule_groups_a_batch_and_is_offered_to_who_writes_an_arm(clone: Path) -> None:
    add(clone, RULE)
    done = python(clone, "-c", GROUPED)
    assert done.returncode == 0, done.stderr
    causes = "[['CRITERION', 'CAP', 'END'], ['CAP', 'CRITERION', 'END']]"
    endpoints = "[[0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1]]"
    assert done.stdout.strip() == f"{causes} {endpoints}"
    assert groupppo(clone, "new", "arm", "mine").returncode == 0
    offered = (clone / "benchmarks" / "arms" / "mine.yaml").read_text()
    assert "low_prob, low_prob_stride, prefix_cut, published" in " ".join(offered.replace("#", "").split())


def test_an_arm_of_a_rule_without_a_file_is_refused_and_the_folder_named(clone: Path) -> None:
    add(clone, USES_RULE)
    done = groupppo(clone, "validate", USES_RULE.path)
    assert done.returncode == 1
    assert "rule = 'low_prob_stride'" in done.stderr
    assert "groupppo/algorithm/rules/" in done.stderr
    assert "did you mean low_prob?" in done.stderr
    add(clone, RULE)
    assert groupppo(clone, "validate", USES_RULE.path).returncode == 0


def test_a_new_figure_and_a_new_section_are_in_the_report(clone: Path, tmp_path: Path) -> None:
    name_in_matrix(clone)
    results = tmp_path / "made"
    benchmark = write_results(results, steps=2)
    collect(results, benchmark)
    judged = decide(load_claims(benchmark.claims), load_tables(results / "tables"), benchmark)
    (results / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")

    def reported() -> tuple[list[str], str, str]:
        """Ids of the figures, the page and its Markdown."""
        done = python(clone, "-c", REPORTED, str(results))
        assert done.returncode == 0, done.stderr
        texts = ((results / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
        return (json.loads(done.stdout.splitlines()[-1]), *texts)

    before, page, markdown = reported()
    assert FIGURE.name not in before
    assert "Admissible runs of each seed." not in page + markdown
    add(clone, FIGURE, SECTION)
    after, page, markdown = reported()
    assert after == [*before[:2], FIGURE.name, *before[2:]]
    assert 'id="figure-response_tokens"' in page
    assert '<a href="#seeds">Seeds</a>' in page
    assert page.count("Admissible runs of each seed.") == markdown.count("Admissible runs of each seed.") == 1
    assert "figures/response_tokens.png" in markdown
