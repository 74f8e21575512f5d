"""Folders as Qwen2.5-Instruct and Llama-3.2-Instruct are published, of a few thousand parameters, and real data sets.

Files, their names, what is in which, and the fields of the configs are the publications'; widths and words are not.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from groupppo.config import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
with_real_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the published rows are not beside the repository, in ../shared/data"
)
# As in Qwen2.5's, without tools.
QWEN_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# As in Llama-3.2's, without tools: it tells today's date.
LLAMA_TEMPLATE = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n{{- "Cutting Knowledge Date: December 2023\\n" }}\n'
    '{{- "Today Date: " + date_string + "\\n\\n" }}\n{{- "<|eot_id|>" }}\n{%- for message in messages %}\n'
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
    "'<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
)
_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 2048,
}


def qwen2_5(folder: Path) -> Path:
    """Two shards in bfloat16, more embeddings than tokens, the template in tokenizer_config.json, and a penalty."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pad, _, end = _write_tokenizer(
        folder,
        special,
        {"add_bos_token": False, "add_prefix_space": False, "bos_token": None, "errors": "replace"}
        | {"eos_token": special[2], "pad_token": special[0], "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
        | {"chat_template": QWEN_TEMPLATE, "model_max_length": 131072, "split_special_tokens": False},
    )
    config = Qwen2Config(
        vocab_size=256 + len(special) + 13,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=pad,
        eos_token_id=end,
        **_SMALL,
    )
    sampling = {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": True}
    ids = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad]}
    _write_model(folder, Qwen2ForCausalLM(config), ids | sampling)
    return folder


def llama_3_2(folder: Path) -> Path:
    """No padding token, a tokenizer that adds a token of its own, several ends, and more files in another folder."""
    names = ("begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id", "eom_id")
    special = [f"<|{name}|>" for name in (*names, "eot_id")]
    ids = _write_tokenizer(
        folder,
        special,
        {"bos_token": special[0], "eos_token": special[-1], "clean_up_tokenization_spaces": True}
        | {"chat_template": LLAMA_TEMPLATE, "model_max_length": 131072, "tokenizer_class": "PreTrainedTokenizerFast"},
        begins=special[0],
    )
    ends = [ids[1], ids[5], ids[6]]
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        vocab_size=256 + len(special),
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        rope_parameters=rope | {"low_freq_factor": 1.0, "original_max_position_embeddings": 1024},
        bos_token_id=ids[0],
        eos_token_id=ends,
        **_SMALL,
    )
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    _write_model(folder, LlamaForCausalLM(config), {"bos_token_id": ids[0], "eos_token_id": ends} | sampling)
    (folder / "original").mkdir()
    for name in ("params.json", "tokenizer.model", "consolidated.00.pth"):
        (folder / "original" / name).write_text("{}")
    return folder


def _write_tokenizer(folder: Path, special: Sequence[str], config: dict[str, Any], begins: str = "") -> list[int]:
    """Every byte a word, and special tokens behind them, as ids; none is in a file but these two."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ids = [tokenizer.token_to_id(token) for token in special]
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(f"{begins} $A", special_tokens=[(begins, ids[0])])
    tokenizer.save(str(folder / "tokenizer.json"))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(index): {"content": token, **plain} for index, token in zip(ids, special, strict=True)}
    text = json.dumps({"added_tokens_decoder": added} | config, indent=2)
    (folder / "tokenizer_config.json").write_text(text)
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    (folder / "LICENSE").write_text("Theirs.\n")
    return ids


def _write_model(folder: Path, model: PreTrainedModel, generation: dict[str, Any]) -> None:
    """Random weights, but that embeddings of no word have no probability, as training leaves them: verl's vLLM server
    forbids them, and its trainer counts them.
    """
    words = len(AutoTokenizer.from_pretrained(folder))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2 if len(parameter) >= words else 0.02)
        embeddings = model.get_parameter("model.embed_tokens.weight")
        embeddings[:words, 0], embeddings[words:, 0] = 2.0, -2.0
    model.bfloat16().save_pretrained(folder, max_shard_size="80KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    (folder / "generation_config.json").write_text(json.dumps(generation))


def data_set(name: str, folder: Path) -> Path:
    """GSM8K or MATH of `DATA` as on the hub: Parquet files by config, and a README.md that names them."""
    columns = {"gsm8k": ("question", "answer"), "math": ("problem", "level", "type", "solution")}[name]
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for split in ("train", "test"):
        with gzip.open(DATA / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                rows.setdefault((row.get("config", "main"), split), []).append({key: row[key] for key in columns})
    lines = ["---", "configs:"]
    for config in sorted({config for config, _ in rows}):
        (folder / config).mkdir(parents=True)
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "test"):
            table = pa.Table.from_pylist(rows[config, split])
            pq.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder
