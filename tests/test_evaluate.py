"""Evaluation through lm-eval: right numbers, hashes of what they rest on, exact repeats, nothing left behind."""

import json
import shutil

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from groupppo.config import Evaluation
from groupppo.errors import BadInput
from groupppo.evaluate import evaluate
from groupppo.models.warmstart import warm_start
from groupppo.records.hashing import sha256_file, sha256_folder, sha256_model
from groupppo.tasks.reward import score
from groupppo.tasks.rows import read_examples
from groupppo.tasks.tokenizer import chat_ids
from tests.published import llama_3_2

# Fields of published generation configs, and others that `generate` obeys without a word.
HIDDEN = {
    "repetition_penalty": 1.3,
    "do_sample": True,
    "temperature": 0.2,
    "top_p": 0.5,
    "top_k": 2,
    "min_p": 0.4,
    "min_new_tokens": 9,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [20, 21],
    "num_beams": 2,
}


@pytest.fixture(scope="module")
def start(small_task, small_model_folder, small_task_folder, tmp_path_factory):
    """A small model that answers some prompts right and some wrong."""
    out = tmp_path_factory.mktemp("start")
    warm_start(small_task, small_model_folder, small_task_folder, out)
    return out


@pytest.fixture(scope="module")
def run(start, small_task, small_task_folder, tmp_path_factory):
    """Evaluate, into a new folder unless told; returns the folder and the result."""

    def run(seed=7, checkpoint=start, out=None, temperature=1.0, **device):
        out = out or tmp_path_factory.mktemp("eval")
        how = Evaluation(batch_size=16, repeats=3, sampled_prompts=10, seed=seed)
        cell = {"model": "mini", "arm": "start", "training_seed": None, "temperature": temperature}
        return out, evaluate(checkpoint, small_task, small_task_folder, out, how, **cell, **device)

    return run


@pytest.fixture(scope="module")
def evaluated(run):
    return run()


@pytest.fixture
def instructed(start, tmp_path):
    """A function that gives the start with more in its generation config."""

    def make(**changes):
        folder = shutil.copytree(start, tmp_path / "-".join(changes)[:99])
        file = folder / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    return make


def samples(out, kind):
    (path,) = out.glob(f"samples_small_{kind}_*.jsonl")
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["doc_id"])


def responses(out):
    return {kind: [row["resps"] for row in samples(out, kind)] for kind in ("greedy", "sampled")}


def test_the_result_file_holds_the_cell_its_metrics_and_hashes(evaluated, start, small_task_folder):
    out, result = evaluated
    assert json.loads((out / "result.json").read_text()) == result
    stated = {"task": "small", "model": "mini", "arm": "start", "seed": None, "n": 40}
    stated |= {"batch_size": 16, "repeats": 3, "eval_seed": 7, "lm_eval_version": "0.4.13"}
    stated |= {"data_sha256": sha256_file(small_task_folder / "test.parquet")}
    stated |= {"yaml_sha256": sha256_folder(out / "lm_eval"), "checkpoint_sha256": sha256_model(start)}
    assert stated.items() <= result.items()
    assert set(result["metrics"]) == {"accuracy", "mean@3"}
    assert set(result["files"]) == {file.name for file in out.glob("*s_*.json*")}


def test_the_metrics_are_means_of_the_training_reward_of_the_logged_responses(evaluated, small_task_folder):
    out, result = evaluated
    answers = [example.answer for example in read_examples(small_task_folder / "test.parquet")]
    for kind, metric, repeats, prompts in [("greedy", "accuracy", 1, 40), ("sampled", "mean@3", 3, 10)]:
        texts = [row["resps"][0] for row in samples(out, kind)]
        assert {len(each) for each in texts} == {repeats}
        rewards = [
            sum(score(text, answer) for text in each) / repeats
            for each, answer in zip(texts, answers[:prompts], strict=True)
        ]
        measured = result["metrics"][metric]
        assert measured["n"] == len(rewards)
        assert measured["value"] == pytest.approx(sum(rewards) / len(rewards))
        assert 0 < measured["value"] < 1
        assert measured["stderr"] > 0


def test_prompts_reach_the_model_as_they_do_in_training(evaluated, start, small_task_folder):
    tokenizer = AutoTokenizer.from_pretrained(start)
    examples = read_examples(small_task_folder / "test.parquet")
    for row, example in zip(samples(evaluated[0], "greedy"), examples, strict=True):
        assert tokenizer.encode(row["arguments"]["gen_args_0"]["arg_0"]) == chat_ids(tokenizer, example.prompt)


@pytest.mark.parametrize("template", ["{{ bos_token }}", ""])
def test_the_model_is_given_the_ids_of_training_where_its_tokenizer_adds_one_of_its_own(
    run, small_task_folder, tmp_path, monkeypatch, template
):
    """As Llama's does, whose template says it, too."""
    folder = llama_3_2(tmp_path / "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"pad_token": "<|finetune_right_pad_id|>"}
    settings["chat_template"] = template + "{{ messages[0].content }}>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    seen, stock = [], LlamaForCausalLM.generate

    def generate(model, input_ids, attention_mask, **others):
        seen.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True))
        return stock(model, input_ids=input_ids, attention_mask=attention_mask, **others)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    run(checkpoint=folder, published=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [example.prompt for example in read_examples(small_task_folder / "test.parquet")]
    assert sorted(seen) == sorted(chat_ids(tokenizer, prompt) for prompt in prompts + prompts[:10] * 3)
    assert tokenizer.encode("7") == [tokenizer.bos_token_id, *tokenizer.encode("7", add_special_tokens=False)]


def test_the_same_seed_repeats_every_response_in_the_place_of_the_first_and_another_changes_only_sampled_ones(
    evaluated, run, tmp_path
):
    first = responses(evaluated[0])
    out = shutil.copytree(evaluated[0], tmp_path / "out")
    names = len(list(out.iterdir()))
    _, again = run(out=out)
    assert len(list(out.iterdir())) == names == 5
    assert responses(out) == first
    assert again["metrics"] == evaluated[1]["metrics"]
    other = responses(run(seed=8, out=out)[0])
    assert first["greedy"] == other["greedy"]
    assert first["sampled"] != other["sampled"]


def test_nothing_hidden_in_a_generation_config_changes_a_response(evaluated, run, instructed, monkeypatch):
    plain = responses(evaluated[0])
    assert responses(run(checkpoint=instructed(**HIDDEN))[0]) == plain
    monkeypatch.setattr("groupppo.evaluate.decode_as_trained", lambda model, tokenizer: None)
    penalised = responses(run(checkpoint=instructed(repetition_penalty=1.3, top_k=2))[0])
    assert all(penalised[kind] != plain[kind] for kind in plain)  # it would


def test_a_response_ends_at_every_end_token_that_the_model_publishes(run, start, instructed):
    """As in vLLM; here at the mark before an answer, so that none is right."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    out, result = run(checkpoint=instructed(eos_token_id=tokenizer.encode("#", add_special_tokens=False)))
    assert result["metrics"]["accuracy"]["value"] == 0
    texts = [text for ((text,),) in responses(out)["greedy"]]
    assert all("#" not in text[:-1] for text in texts)
    assert sum(text.endswith("#") for text in texts) > len(texts) / 2


def test_the_sampled_part_has_the_temperature_of_training(evaluated, run):
    """So low a temperature that the likeliest token is drawn, as in greedy decoding."""
    cold, plain = responses(run(temperature=1e-4)[0]), responses(evaluated[0])
    assert cold["greedy"] == plain["greedy"]
    for (texts,), (greedy,) in zip(cold["sampled"], cold["greedy"][:10], strict=True):
        assert set(texts) == set(greedy)
    assert plain["sampled"] != cold["sampled"]


def test_a_missing_checkpoint_and_one_without_tokenizer_are_refused(run, start, tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        run(checkpoint=tmp_path / "none")
    bare = shutil.copytree(start, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        run(checkpoint=bare)


@pytest.mark.parametrize("asked", [{}, {"device": "cuda"}])
def test_the_benchmarks_device_is_used_and_not_a_gpu_that_happens_to_be_there(run, monkeypatch, asked):
    class Asked(Exception):
        pass

    def model(*, device, **others):
        raise Asked(device)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM", model)
    with pytest.raises(Asked, match=asked.get("device", "cpu")):
        run(**asked)
