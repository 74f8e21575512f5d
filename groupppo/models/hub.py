"""Folders of models: those of the Hugging Face hub, downloaded at a pinned revision, and the check of any.

Weights, config, tokenizer and chat template stay as published. `origin.json` beside them says from where and which
commit; with a branch for a revision, the first download decides that, and the file is how one learns it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from groupppo.config import Model
from groupppo.errors import BadInput, suggest
from groupppo.update.flops import Shape

ORIGIN = "origin.json"
COMPLETE = "copy the whole Hugging Face folder: config, tokenizer, chat template and safetensors."
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*"]
_KNOWN = {
    "repo": ("the name on the hub, such as Qwen/Qwen3-0.6B", re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)),
    "revision": ("a commit, or a branch such as main", re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)),
}
_OPTIONAL = ("pad_token", "chat_template_set")


def hub_model(model: Model, folder: Path) -> int:
    """Download `params.repo` at `params.revision` into `folder`; what the hub's cache holds needs no network.

    `params.pad_token` names a special token of the tokenizer where the publication has no padding token.
    `params.chat_template_set` gives variables of the chat template values, such as `enable_thinking: false`; they are
    written into the template itself, so that training, rollouts and evaluation speak alike.

    Returns:
        Number of parameters in the files.

    Raises:
        BadInput: a parameter is unknown or missing, the hub does not give the files, or they have another shape than
            the model's file says.
    """
    for fault in params_faults(model):
        raise fault
    source = _download(model)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    if "pad_token" in model.params:
        _write_pad_token(model, folder)
    if "chat_template_set" in model.params:
        _write_template(model, folder)
    check_model_folder(folder, padded=True)
    _check_shape(model, folder)
    origin = {"repo": model.params["repo"], "revision": model.params["revision"], "commit": source.name}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return count_parameters(folder)


def count_parameters(folder: Path) -> int:
    """Weights in the safetensors of a folder, read from their headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
    return total


def params_faults(model: Model) -> Iterator[BadInput]:
    """What is wrong in the file of a published model, as far as it can be seen without the hub."""
    known = [*_KNOWN, *_OPTIONAL]
    for key in sorted(set(model.params) - set(known)):
        hint = f"unknown; {suggest(key, known)}Known: {', '.join(known)}."
        yield BadInput(model.source, f"params.{key}", model.params[key], hint)
    for key, (text, pattern) in _KNOWN.items():
        value = model.params.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            yield BadInput(model.source, f"params.{key}", value, f"write {text}.")
    token, values = model.params.get("pad_token", "any"), model.params.get("chat_template_set", {})
    if not isinstance(token, str) or not token.strip():
        yield BadInput(model.source, "params.pad_token", token, "name one of the tokenizer's special tokens.")
    if not isinstance(values, dict) or not all(isinstance(value, bool) for value in values.values()):
        yield BadInput(model.source, "params.chat_template_set", values, "write names with true or false.")
    if model.shape is None:
        yield BadInput(model.source, "shape", None, "add it: GPU memory is planned with it.")


def _download(model: Model) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, revision = model.params["repo"], model.params["revision"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        hint = (
            "check name, revision, network and, for a gated model, that its licence is accepted and HF_TOKEN set; "
            f"the hub says: {str(error).splitlines()[0]}"
        )
        raise BadInput(model.source, "params.repo", f"{repo}@{revision}", hint) from error


def _write_pad_token(model: Model, folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    token = model.params["pad_token"]
    special = {entry["content"] for entry in config.get("added_tokens_decoder", {}).values()}
    if token not in special:
        raise BadInput(model.source, "params.pad_token", token, "name one of the tokenizer's special tokens.")
    file.write_text(json.dumps(config | {"pad_token": token}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_template(model: Model, folder: Path) -> None:
    values = model.params["chat_template_set"]
    head = "".join(f"{{%- set {name} = {str(value).lower()} -%}}" for name, value in values.items())
    config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    template = template_file.read_text(encoding="utf-8") if template_file.is_file() else config.get("chat_template", "")
    for name in values:
        if name not in template:
            raise BadInput(model.source, "params.chat_template_set", name, "name a variable that the template reads.")
    config.pop("chat_template", None)
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    template_file.write_text(head + template, encoding="utf-8")


def _check_shape(model: Model, folder: Path) -> None:
    from transformers import AutoConfig

    found = asdict(Shape.of(AutoConfig.from_pretrained(folder)))
    for key, value in (model.shape or {}).items():
        if found[key] != value:
            raise BadInput(model.source, f"shape.{key}", value, f"write {found[key]}, as {folder.name} is published.")


def check_model_folder(folder: Path, *, padded: bool = False) -> None:
    """Check that a Hugging Face folder is complete and that model and tokenizer fit each other.

    Args:
        padded: whether the model may have more embeddings than the tokenizer has tokens, as published ones do. Their
            training has left the surplus next to no probability; random weights would give it its full share.

    Raises:
        BadInput: config, tokenizer, chat template, end or pad token, or weights are missing or damaged, or the model
            has another vocabulary size than the tokenizer.
    """
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoTokenizer

    if not folder.is_dir():
        raise BadInput(folder, "folder", None, "check the path: the model folder does not exist.")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise BadInput(folder / name, "file", None, COMPLETE)
    try:
        vocab_size = AutoConfig.from_pretrained(folder, trust_remote_code=False).vocab_size
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise BadInput(folder, "config or tokenizer", str(error).splitlines()[0], COMPLETE) from error
    if not tokenizer.chat_template:
        raise BadInput(folder / "chat_template.jinja", "file", None, COMPLETE)
    for key in ("eos_token", "pad_token"):
        if getattr(tokenizer, key) is None:
            raise BadInput(folder / "tokenizer_config.json", key, None, "name one of the tokenizer's special tokens.")
    if vocab_size < len(tokenizer) or (vocab_size > len(tokenizer) and not padded):
        hint = f"resize the embeddings to len(tokenizer) = {len(tokenizer)}: rollouts and trainer must agree."
        raise BadInput(folder / "config.json", "vocab_size", vocab_size, hint)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadInput(folder / "model.safetensors", "file", None, COMPLETE)
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise BadInput(path, "file", str(error), f"the weights are damaged; {COMPLETE}") from error
