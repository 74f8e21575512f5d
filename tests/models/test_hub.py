"""Folders of models: what is refused, those of the hub, which is a folder here, and the user's own."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from groupppo.config import REPOSITORY, Model, Task, load_model
from groupppo.config.allowed import VARIABLE
from groupppo.errors import BadInput
from groupppo.measure.provenance import provenance
from groupppo.models import build_model, model_faults
from groupppo.models.hub import check_model_folder
from groupppo.models.warmstart import start_as_published
from groupppo.profile.config import load_profile
from groupppo.records.hashing import sha256_file, sha256_model
from groupppo.tasks.rows import check_prompt_lengths, measure_lengths, read_examples
from groupppo.tasks.tokenizer import CHAT_TEMPLATE, chat_ids
from groupppo.update.flops import Shape
from tests.published import llama_3_2


@pytest.fixture
def folder(small_model_folder, tmp_path):
    """A copy of the small model that a test may damage."""
    return shutil.copytree(small_model_folder, tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"]
)
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(BadInput) as error:
        check_model_folder(folder)
    assert (error.value.file, error.value.value) == (str(folder / name), None)
    with pytest.raises(BadInput, match="does not exist"):
        check_model_folder(folder / "none")


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match="damaged") as error:
        check_model_folder(folder)
    assert error.value.file == str(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_broken_config_or_tokenizer_is_refused(folder, name):
    (folder / name).write_text("{")
    with pytest.raises(BadInput) as error:
        check_model_folder(folder)
    assert error.value.key == "config or tokenizer"


def test_code_that_a_model_brings_is_not_run_whatever_is_typed(folder, monkeypatch):
    """transformers asks for a yes on the standard input, while what it asks goes to a job's log."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    (folder / "theirs.py").write_text("raise SystemExit('run')\n")
    edit(folder / "config.json", model_type="theirs", auto_map={"AutoConfig": "theirs.Config"})
    with pytest.raises(BadInput, match="contains custom code"):
        check_model_folder(folder)
    assert asked == []


HUB_FILES = sorted(file for file in (REPOSITORY / "benchmarks" / "models").glob("*.yaml") if "hub" in file.read_text())
COMMIT = "0123456789abcdef"


@pytest.fixture
def model(small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model whose download is a snapshot on disk."""
    snapshot = tmp_path / "snapshots" / COMMIT
    shutil.copytree(small_model_folder, snapshot)
    asked = {"repo": "some/name", "revision": "main"}

    def download(repo: str, *, revision: str, allow_patterns: list[str], **_: object) -> str:
        assert "*.safetensors" in allow_patterns
        if (repo, revision) != tuple(asked.values()):
            raise OSError(f"no {repo} at {revision}\nand more")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    shape = asdict(Shape.of(AutoConfig.from_pretrained(snapshot)))
    return replace(load_model(HUB_FILES[0]), params=asked, shape=shape, verl={})


def test_a_published_model_is_copied_with_a_note_of_its_commit(
    model: Model, small_task: Task, small_task_folder: Path, tmp_path: Path
) -> None:
    parameters = build_model(model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "origin.json").read_text())["commit"] == COMMIT
    assert parameters == AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters()
    lengths = start_as_published(small_task, tmp_path / "out", small_task_folder, tmp_path / "start")
    check_model_folder(tmp_path / "start")
    assert json.loads((tmp_path / "start" / "lengths.json").read_text()) == lengths
    assert sha256_model(tmp_path / "start") == sha256_model(tmp_path / "out")  # the note is no part of the model
    shorter = replace(small_task, max_prompt_tokens=small_task.max_prompt_tokens - 1)
    with pytest.raises(BadInput, match=f"at least {small_task.max_prompt_tokens}"):
        start_as_published(shorter, tmp_path / "out", small_task_folder, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"params": {"revision": "v2"}}, "params.repo"),
        ({"params": {"repo": "other/name"}}, "params.repo"),
        ({"params": {"revison": "main"}}, "params.revison"),
        ({"params": {"revision": None}}, "params.revision"),
        ({"params": {"pad_token": "<|none|>"}}, "params.pad_token"),
        ({"params": {"chat_template_set": {"thinking": False}}}, "params.chat_template_set"),
        ({"params": {"chat_template_set": "no"}}, "params.chat_template_set"),
        ({"shape": {"hidden": 999}}, "shape.hidden"),
        ({"shape": None}, "shape"),
    ],
)
def test_what_the_hub_does_not_give_is_an_error_that_names_the_key(
    model: Model, tmp_path: Path, changes: dict, key: str
) -> None:
    params = model.params | changes.get("params", {})
    with pytest.raises(BadInput) as error:
        build_model(replace(model, **(changes | {"params": params})), tmp_path / "out")
    assert error.value.key == key
    assert error.value.hint


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Model:
    """A model whose folder, with a card, a licence, code and pickles, lies beside the model's file."""
    home = tmp_path / "models"
    home.mkdir()
    folder.rename(home / "ours")
    for name, text in {"README.md": "---\nlicense: mit\n---\n", "LICENSE": "MIT", "a.py": "1/0", "w.bin": "x"}.items():
        (home / "ours" / name).write_text(text)
    tiny = load_model(REPOSITORY / "benchmarks" / "models" / "tiny.yaml")
    return replace(tiny, factory="folder", params={"path": "models/ours"}, source=home / "ours.yaml")


def test_a_folder_on_disk_is_copied_with_its_card_and_licence_and_no_code(own: Model, tmp_path: Path) -> None:
    assert not model_faults(own)
    parameters = build_model(own, tmp_path / "out")
    origin = json.loads((tmp_path / "out" / "origin.json").read_text())
    assert (origin["folder"], origin["license"]) == ("ours", "mit")
    for name, sha256 in origin["files"].items():
        assert sha256_file(tmp_path / "out" / name) == sha256
    there = {file.name for file in (tmp_path / "out").iterdir()}
    assert there == {file.name for file in (tmp_path / "models" / "ours").iterdir()} - {"a.py", "w.bin"} | {
        "origin.json"
    }
    assert parameters == AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters()
    assert own.published  # a padded vocabulary is its right, and it may do without a warm start
    again = replace(own, params=own.params | {"chat_template_set": {"add_generation_prompt": False}})
    build_model(again, tmp_path / "again")
    assert "set add_generation_prompt = false" in (tmp_path / "again" / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("changes", "key", "hint"),
    [
        ({"params": {"path": "models/none"}}, "folder", "does not exist"),
        ({"params": {"path": "/etc"}}, "params.path", "--config allow=params.path"),
        ({"params": {"path": "../model"}}, "params.path", "--config allow=params.path"),
        ({"params": {"repo": "a/b"}}, "params.repo", "unknown key"),
        ({"params": {"pad_token": "<|none|>"}}, "params.pad_token", "special tokens"),
        ({"shape": {"hidden": 999}}, "shape.hidden", "write 32"),
        ({"resources": {"mem_mb": 8000, "gpu": 1, "gpu_memory_gb": 80}}, "shape", "'hidden': 32"),
        ({"resources": {"mem_mb": 0}}, "resources.mem_mb", "Adam"),
    ],
)
def test_a_folder_on_disk_that_cannot_be_used_is_named(
    own: Model, tmp_path: Path, changes: dict, key: str, hint: str
) -> None:
    params = own.params | changes.get("params", {})
    with pytest.raises(BadInput) as error:
        build_model(replace(own, **(changes | {"params": params})), tmp_path / "out")
    assert error.value.key == key
    assert hint in error.value.hint


def test_a_folder_on_disk_takes_no_file_from_elsewhere_unless_that_is_allowed(
    own: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints may be published."""
    file = tmp_path / "models" / "ours" / "README.md"
    file.rename(tmp_path / "secret")
    file.symlink_to(tmp_path / "secret")
    assert [fault.key for fault in model_faults(own)] == ["params.path"]
    monkeypatch.setenv(VARIABLE, "params.path")
    assert not model_faults(own)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_folder_on_disk_that_is_not_complete_is_refused_before_anything_runs(own: Model, name: str) -> None:
    (own.source.with_name("ours") / name).unlink()
    [fault] = model_faults(own)
    assert name in fault.file


def test_a_variable_of_the_chat_template_is_set_for_all_who_read_it(model: Model, tmp_path: Path) -> None:
    build_model(model, tmp_path / "plain")
    asked = replace(model, params=model.params | {"chat_template_set": {"add_generation_prompt": False}})
    build_model(asked, tmp_path / "asked")
    with_prompt, without = (
        chat_ids(AutoTokenizer.from_pretrained(tmp_path / name), "7") for name in ("plain", "asked")
    )
    assert with_prompt[:-1] == without


def placed(folder: Path, where: str, template: str = CHAT_TEMPLATE) -> Path:
    """Put the chat template of a folder where publications have theirs."""
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "{{ 1/0 }}"}, {"name": "default", "template": template}]
    if where == "a file":
        (folder / "chat_template.jinja").write_text(template)
    else:
        entry = {"the settings": template, "several": named, "others": named[:1]}[where]
        edit(folder / "tokenizer_config.json", chat_template=entry)
    return folder


@pytest.mark.parametrize("where", ["a file", "the settings", "several", "others"])
def test_a_chat_template_is_found_wherever_a_model_keeps_it(
    own: Model, small_model_folder: Path, tmp_path: Path, where: str
) -> None:
    placed(own.source.with_name("ours"), where)
    if where == "others":
        with pytest.raises(BadInput, match=r"chat_template\.jinja"):
            build_model(own, tmp_path / "out")
        return
    build_model(own, tmp_path / "out")
    (tmp_path / "config.yaml").touch()
    (tmp_path / "train.parquet").touch()
    said = [
        provenance(device="cpu", config=tmp_path / "config.yaml", task_folder=tmp_path, start=folder)["inputs"]
        for folder in (tmp_path / "out", small_model_folder)
    ]
    assert said[0]["chat_template_sha256"] == said[1]["chat_template_sha256"] is not None
    ours, small = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", small_model_folder))
    assert chat_ids(ours, "sort 12") == chat_ids(small, "sort 12")
    assert isinstance(ours.chat_template, str)
    set_ = replace(own, params=own.params | {"chat_template_set": {"add_generation_prompt": False}})
    build_model(set_, tmp_path / "set")
    assert chat_ids(AutoTokenizer.from_pretrained(tmp_path / "set"), "7") == chat_ids(small, "7")[:-1]


def test_a_template_that_tells_the_date_is_refused_until_it_is_given_one(own: Model, tmp_path: Path) -> None:
    """As Llama's does, which has no padding token either."""
    shutil.rmtree(own.source.with_name("ours"))
    llama_3_2(own.source.with_name("ours"))
    padded = own.params | {"pad_token": "<|finetune_right_pad_id|>"}
    for params in (own.params, padded):
        assert [found.key for found in model_faults(replace(own, params=params))] == ["chat template"]
    [found] = model_faults(replace(own, params=padded))
    assert found.value == "strftime_now('%d %b %Y')"
    assert "params.chat_template_set" in found.hint
    dated = padded | {"chat_template_set": {"date_string": "26 Jul 2024"}}
    [found] = model_faults(replace(own, params={key: dated[key] for key in dated if key != "pad_token"}))
    assert found.key == "pad_token"
    build_model(replace(own, params=dated), tmp_path / "dated")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dated")
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(chat_ids(tokenizer, "7"))
    for bad in ('" -%}', "", 1.5):
        wrong = replace(own, params=dated | {"chat_template_set": {"date_string": bad}})
        assert [fault.key for fault in model_faults(wrong)] == ["params.chat_template_set.date_string"], bad


def test_what_a_tasks_limits_cut_off_is_measured_with_the_models_own_tokenizer(
    small_task: Task, small_task_folder: Path, small_model_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_model_folder)
    lengths = measure_lengths(replace(small_task, max_response_tokens=8), small_task_folder, small_model_folder)
    examples = read_examples(small_task_folder / "test.parquet")
    solutions = [len(tokenizer.encode(example.demonstration)) + 1 for example in examples]
    assert lengths["test"]["solution_tokens"]["max"] == max(solutions) > 8
    assert lengths["test"]["solution_tokens"]["above"] == sum(each > 8 for each in solutions) / len(solutions)
    assert lengths["train"]["prompt_tokens"]["above"] == 0
    assert lengths["train"]["prompt_tokens"]["max"] <= lengths["limits"]["prompt_tokens"]


def test_a_padded_vocabulary_is_a_publications_right_only(model: Model, tmp_path: Path) -> None:
    build_model(model, tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    edit(file, vocab_size=264)
    check_model_folder(tmp_path / "out", padded=True)
    with pytest.raises(BadInput, match=r"vocab_size = 264\n.*261"):
        check_model_folder(tmp_path / "out")
    edit(file, vocab_size=258)
    with pytest.raises(BadInput, match="vocab_size"):
        check_model_folder(tmp_path / "out", padded=True)


@pytest.mark.parametrize("file", HUB_FILES, ids=lambda file: file.stem)
def test_a_shipped_model_is_pinned_and_has_the_profiles_shape(file: Path) -> None:
    shipped = load_model(file)
    assert len(shipped.params["revision"]) == 40
    profiled = load_profile(REPOSITORY / "benchmarks" / "profile.yaml").shapes[shipped.name.removesuffix("_8gpu")]
    assert Shape(**(shipped.shape or {})) == profiled.shape


def test_a_prompt_longer_than_planned_is_found_before_training(
    small_task, small_task_folder: Path, small_model_folder: Path
) -> None:
    longest = check_prompt_lengths(small_task, small_task_folder, small_model_folder)
    assert longest <= small_task.max_prompt_tokens
    with pytest.raises(BadInput, match=f"at least {longest}"):
        check_prompt_lengths(replace(small_task, max_prompt_tokens=longest - 1), small_task_folder, small_model_folder)
