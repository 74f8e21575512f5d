"""The tiny model: its size, its files, the same bytes for the same seed, and errors for bad model files."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from groupppo.config import REPOSITORY, load_model
from groupppo.errors import BadInput
from groupppo.models import build_model
from groupppo.records.hashing import sha256_folder

TINY = load_model(REPOSITORY / "benchmarks" / "models" / "tiny.yaml")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return folder, build_model(TINY, folder)


def test_the_benchmarks_tiny_model_has_115584_parameters_in_float32(built):
    folder, parameters = built
    weights = load_file(folder / "model.safetensors")
    assert parameters == 115_584 == sum(tensor.numel() for tensor in weights.values())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_its_vocabulary_is_the_tokenizers_and_its_special_tokens_agree_everywhere(built):
    folder, _ = built
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.eos_token_id == generation.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
    assert (generation.do_sample, generation.temperature, generation.top_k, generation.top_p) == (True, 1.0, 0, 1.0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(built, tmp_path):
    folder, _ = built
    torch.manual_seed(5)  # the global random state does not matter, and stays as it is
    before = torch.get_rng_state()
    build_model(TINY, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    build_model(replace(TINY, seed=1), tmp_path / "other")
    assert sha256_folder(tmp_path / "again") == sha256_folder(folder)
    assert sha256_folder(tmp_path / "other") != sha256_folder(folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"depth": 3}, "params.depth"),
        ({"layers": None}, "params.layers"),
        ({"layers": 0}, "params.layers"),
        ({"layers": 1.5}, "params.layers"),
        ({"hidden_size": 65}, "params.hidden_size"),
        ({"key_value_heads": 3}, "params.key_value_heads"),
    ],
)
def test_a_bad_parameter_is_reported_with_file_and_key(tmp_path, change, key):
    with pytest.raises(BadInput) as error:
        build_model(replace(TINY, params=TINY.params | change), tmp_path)
    assert (error.value.file, error.value.key) == (str(TINY.source), key)


def test_an_unknown_factory_is_reported_with_those_that_exist(tmp_path):
    with pytest.raises(BadInput, match="Known factories: folder, hub, tiny_qwen2"):
        build_model(replace(TINY, factory="huge"), tmp_path)
