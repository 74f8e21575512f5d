"""The jobs that download, as Snakemake runs them, from a hub on the loopback address; no other job asks one.

One benchmark asks for what is right, gated, of a revision that is not there, and for a transfer that breaks off.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from groupppo.cli.check import note_of_no_faults
from groupppo.config import REPOSITORY, load_benchmark, load_task
from groupppo.models.hub import check_model_folder
from groupppo.records.hashing import sha256_folder
from tests.hub import TOKEN, Hub, serve
from tests.published import data_set, llama_3_2, qwen2_5, with_real_data

SHARD = "model-00001-of-00002.safetensors"
MODELS = ("right", "gated", "stale", "broken")
# Published rows that no split of a shipped task takes, by reason.
LEFT_OUT: dict[str, dict[str, int]] = {
    "gsm8k": {},
    "gsm8k_short": {"test: longer than longest_prompt_bytes": 7, "train: longer than longest_prompt_bytes": 41},
    "math": {
        "test: longer than longest_prompt_bytes": 17,
        "train: longer than longest_prompt_bytes": 43,
        "train: no answer": 2,
        "train: prompt met before": 1,
    },
}


class Project:
    """A folder with the workflow and a benchmark of models that a hub has, or has not."""

    def __init__(self, folder: Path, hub: Hub):
        self.folder, self.hub, self.results = folder, hub, folder / "results" / "hub" / "assets"
        for name in ("Snakefile", "workflow", "benchmarks", "environment.yml"):
            source = REPOSITORY / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
        (folder / "profiles").symlink_to((REPOSITORY / "profiles").readlink())
        made = {"broken": qwen2_5, "gated": llama_3_2, "right": qwen2_5, "stale": qwen2_5}
        for name, make in made.items():
            repository = hub.publish(f"models/of/{name}", make(folder / "hub" / name), gated=name == "gated")
            self._model(name, revision="0" * 40 if name == "stale" else repository.commit)
        hub.repositories["models/of/broken"].breaks_at = {SHARD: 10_000}
        base = yaml.safe_load((folder / "benchmarks" / "quick.yaml").read_text())
        del base["profile"]
        base |= {"name": "hub", "models": list(MODELS), "tasks": ["gsm8k", "gsm8k_short", "math"], "studies": []}
        (folder / "benchmarks" / "hub.yaml").write_text(yaml.safe_dump(base))
        # Nothing is trained, so nothing is composed and checked.
        good = note_of_no_faults(load_benchmark(folder / "benchmarks" / "hub.yaml"), folder / "cache")
        good.parent.mkdir(parents=True)
        good.touch()

    def _model(self, name: str, revision: str) -> None:
        params: dict[str, object] = {"repo": f"of/{name}", "revision": revision}
        if name == "gated":
            params |= {"pad_token": "<|finetune_right_pad_id|>", "chat_template_set": {"date_string": "26 Jul 2024"}}
        shape = {"hidden": 64, "layers": 2, "intermediate": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "tied": True}
        shape["vocabulary"] = 263 if name == "gated" else 272
        content = {"name": name, "title": name, "factory": "hub", "params": params, "shape": shape, "seed": 0}
        file = self.folder / "benchmarks" / "models" / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content | {"resources": {"mem_mb": 2000}}))

    def make(self, models: tuple[str, ...] = (), tasks: tuple[str, ...] = (), **variables: str) -> tuple[int, str]:
        """Exit code and what the user sees; `variables` are those of the user's shell."""
        self.hub.asked.clear()
        wanted = [f"models/{name}" for name in models] + [f"tasks/{name}/card.json" for name in tasks]
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--config"]
        command += ["benchmark=benchmarks/hub.yaml", "--", *(f"results/hub/assets/{each}" for each in wanted)]
        shell = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        shell |= self.hub.environment(self.folder / "home") | {"XDG_CACHE_HOME": str(self.folder / "cache")} | variables
        done = subprocess.run(command, cwd=self.folder, env=shell, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def hints(self, said: str) -> dict[str, str]:
        """The error and its hint by the file that is at fault."""
        lines = said.splitlines()
        found = [index for index, line in enumerate(lines) if ": params.repo = " in line]
        return {Path(lines[at].partition(":")[0]).stem: f"{lines[at]}\n{lines[at + 1]}" for at in found}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with serve() as hub:
        yield Project(tmp_path_factory.mktemp("downloads"), hub)


@pytest.fixture(scope="module")
def first(project: Project) -> tuple[int, str]:
    """The first try, without a token."""
    return project.make(MODELS)


def test_what_is_right_comes_and_what_is_not_is_named_with_its_remedy(project: Project, first: tuple[int, str]) -> None:
    code, said = first
    assert code != 0
    assert "Traceback" not in said
    assert [folder.name for folder in sorted((project.results / "models").iterdir())] == ["right"]
    came = project.results / "models" / "right"
    assert check_model_folder(came, padded=True)
    assert (
        json.loads((came / "origin.json").read_text())["commit"] == project.hub.repositories["models/of/right"].commit
    )
    for name in ("generation_config.json", "tokenizer_config.json", SHARD):
        assert (came / name).read_bytes() == (project.folder / "hub" / "right" / name).read_bytes()
    hints = project.hints(said)
    assert sorted(hints) == ["broken", "gated", "stale"]
    assert "of/gated@" in hints["gated"]
    assert f"accept the licence of this model on {project.hub.url}/of/gated, and set HF_TOKEN" in hints["gated"]
    assert f"of/stale@{'0' * 40}" in hints["stale"]
    assert f"name a commit or a branch of {project.hub.url}/of/stale" in hints["stale"]
    assert "run the same command again: files that came whole are kept in" in hints["broken"]


def test_a_second_try_asks_for_no_file_that_came_whole(project: Project, first: tuple[int, str]) -> None:
    project.hub.repositories["models/of/broken"].breaks_at.clear()
    code, said = project.make(("right", "gated", "broken"), HF_TOKEN=TOKEN)
    assert code == 0, said
    of_broken = [line.rpartition("/")[2] for line in project.hub.asked if line.startswith("GET of/broken/")]
    assert of_broken == [SHARD]
    assert [line for line in project.hub.asked if "of/right" in line] == []
    assert [line for line in project.hub.asked if "original/" in line] == []
    came = project.results / "models" / "broken"
    assert (came / SHARD).read_bytes() == (project.folder / "hub" / "broken" / SHARD).read_bytes()
    llama = project.results / "models" / "gated"
    assert check_model_folder(llama)
    assert 'set date_string = "26 Jul 2024"' in (llama / "chat_template.jinja").read_text()


def test_with_a_filled_cache_a_hub_that_is_switched_off_is_not_asked(project: Project, first: tuple[int, str]) -> None:
    made = sha256_folder(project.results / "models" / "right")
    shutil.rmtree(project.results / "models" / "right")
    code, said = project.make(("right", "stale"), HF_HUB_OFFLINE="1")
    assert code != 0
    assert project.hub.asked == []
    assert sha256_folder(project.results / "models" / "right") == made
    assert list(project.hints(said)) == ["stale"]
    hint = project.hints(said)["stale"]
    assert "unset HF_HUB_OFFLINE, or fill the cache" in hint
    assert f"hf download of/stale --revision {'0' * 40}" in hint


def test_a_hub_that_cannot_be_reached_is_named_with_what_to_do(project: Project, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    code, said = project.make(("stale",), ("gsm8k",), HF_ENDPOINT=nobody, HF_HOME=str(tmp_path))
    assert code != 0
    assert "Traceback" not in said
    hints = project.hints(said)
    assert sorted(hints) == ["gsm8k", "stale"]
    for name, command in {
        "gsm8k": "hf download openai/gsm8k --revision e53f048856ff4f594e959d75785d2c2d37b678ee --repo-type dataset",
        "stale": f"hf download of/stale --revision {'0' * 40}",
    }.items():
        assert f"{nobody} cannot be reached" in hints[name]
        assert f"`{command}`" in hints[name]


@with_real_data
def test_the_shipped_tasks_fill_their_splits_from_the_published_rows(project: Project) -> None:
    for name, repo, file in (("gsm8k", "openai/gsm8k", "gsm8k"), ("math", "EleutherAI/hendrycks_math", "math")):
        revision = load_task(REPOSITORY / "benchmarks" / "tasks" / f"{file}.yaml").params["revision"]
        project.hub.publish(f"datasets/{repo}", data_set(name, project.folder / "hub" / repo), commit=revision)
    code, said = project.make(tasks=tuple(LEFT_OUT))
    assert code == 0, said
    cards = {name: json.loads((project.results / "tasks" / name / "card.json").read_text()) for name in LEFT_OUT}
    assert {name: card["left_out"] for name, card in cards.items()} == LEFT_OUT
    for card in cards.values():
        assert {split: part["prompts"] for split, part in card["splits"].items()} == card["spec"]["splits"]


@pytest.mark.parametrize(
    ("script", "users", "offline"),
    [("model.py", None, False), ("task.py", None, False), ("model.py", "1", True), ("warmstart.py", "0", True)],
)
def test_only_the_jobs_that_download_may_ask_a_hub(
    tmp_path: Path, script: str, users: str | None, offline: bool
) -> None:
    lines = ("from job import job", "from huggingface_hub import constants", "print(constants.HF_HUB_OFFLINE)")
    (tmp_path / script).write_text("\n".join(lines))
    shell = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    shell |= {"HF_HUB_OFFLINE": users} if users else {}
    shell["PYTHONPATH"] = f"{REPOSITORY}:{REPOSITORY / 'workflow' / 'scripts'}"
    done = subprocess.run([sys.executable, tmp_path / script], env=shell, capture_output=True, text=True, check=True)
    assert done.stdout == f"{offline}\n"
