"""A model folder is accepted whole or refused with the file that is wrong."""

import json
import shutil

import pytest

from groupppo.errors import BadInput
from groupppo.models.hub import check_model_folder


@pytest.fixture
def folder(small_model_folder, tmp_path):
    """A copy of the small model that a test may damage."""
    return shutil.copytree(small_model_folder, tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_folder_passes(folder):
    check_model_folder(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        check_model_folder(tmp_path / "none")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"]
)
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(BadInput) as error:
        check_model_folder(folder)
    assert (error.value.file, error.value.value) == (str(folder / name), None)


def test_another_vocabulary_size_than_the_tokenizers_is_refused(folder):
    edit(folder / "config.json", vocab_size=264)
    with pytest.raises(BadInput, match="261") as error:
        check_model_folder(folder)
    assert (error.value.key, error.value.value) == ("vocab_size", 264)


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


def test_an_unknown_kind_of_model_is_refused(folder):
    edit(folder / "config.json", model_type="unheard_of")
    with pytest.raises(BadInput):
        check_model_folder(folder)


def test_code_that_a_model_brings_is_not_run_whatever_is_typed(folder, monkeypatch):
    """transformers asks for a yes on the standard input, while what it asks goes to a job's log."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    config = folder / "config.json"
    own = json.loads(config.read_text())
    (folder / "theirs.py").write_text("raise SystemExit('run')\n")
    config.write_text(json.dumps(own | {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}))
    with pytest.raises(BadInput, match="contains custom code"):
        check_model_folder(folder)
    assert asked == []
