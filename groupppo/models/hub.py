"""Folders of models: of the Hugging Face hub, downloaded at a pinned revision, the user's own, and the check of any.

`origin.json` beside a model says from where it is: which commit the revision was, or the SHA-256 of each file.
"""

import json
import re
import shutil
from collections.abc import Collection
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from groupppo.config import Model
from groupppo.config.files import HubName, HubRepo, Maybe, OwnPath
from groupppo.errors import BadInput, ParamError
from groupppo.records.hashing import sha256_file
from groupppo.records.hub import chat_template, download, require_timeless, set_in_template, write_json
from groupppo.update.flops import Shape

COMPLETE = "copy the whole Hugging Face folder: config, tokenizer, chat template and safetensors."
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*"]


def _as_in_a_template(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"[\w ,.:/-]+", value)):
        return value
    raise PydanticCustomError("template", "write true, false, or a text of words, digits and , . : / - alone")


TemplateValue = Annotated[Any, AfterValidator(_as_in_a_template)]


def hub_model(
    folder: Path,
    *,
    seed: int,
    repo: HubRepo,
    revision: HubName,
    pad_token: Maybe[Annotated[str, Field(pattern=r"\S")]] = None,
    chat_template_set: Maybe[dict[str, TemplateValue]] = None,
) -> None:
    """Download a publication into `folder`; what the hub's cache holds needs no network.

    Args:
        folder: made if missing.
        seed: of random weights; a publication has none.
        repo: its name on the hub, such as Qwen/Qwen3-0.6B.
        revision: a commit, or a branch such as main.
        pad_token: a special token of the tokenizer, where the publication has no padding token.
        chat_template_set: values for variables of the chat template, such as `enable_thinking: false` or
            `date_string: 26 Jul 2024`; they are written into the template itself, so that training, rollouts and
            evaluation speak alike, on any day.

    Raises:
        ParamError: the hub does not give the files, or they have no such token or variable.
    """
    # A publication's folders hold the weights again, in another format.
    source = download(repo, revision, kind="model", files=FILES, ignored=["*/*"])
    _copy([file for file in sorted(source.iterdir()) if file.is_file()], folder, pad_token, chat_template_set)
    write_json(folder / "origin.json", {"repo": repo, "revision": revision, "commit": source.name})


def folder_model(
    folder: Path,
    *,
    seed: int,
    path: OwnPath,
    pad_token: Maybe[Annotated[str, Field(pattern=r"\S")]] = None,
    chat_template_set: Maybe[dict[str, TemplateValue]] = None,
) -> None:
    """Copy a Hugging Face folder on disk into `folder`: weights, config, tokenizer, template, model card and licence.

    Args:
        folder: made if missing.
        seed: of random weights; such a folder has its own.
        path: the folder, from the benchmark's; in models/ there, in the repository, or wherever who starts allows.
        pad_token, chat_template_set: as of `hub_model`.

    Raises:
        ParamError: the folder has no such token or variable.
    """
    source = Path(path)
    files = own_model_files(source)
    _copy(files, folder, pad_token, chat_template_set)
    card = source / "README.md"
    licence = re.search(r"^license: *(\S+)", card.read_text(errors="replace"), re.MULTILINE) if card.is_file() else None
    hashes = {file.name: sha256_file(file) for file in files}
    origin = {"folder": source.name, "license": licence[1] if licence else None, "files": hashes}
    write_json(folder / "origin.json", origin)


def own_model_files(folder: Path) -> list[Path]:
    """The files of a folder that a model is made of, sorted: no code, no pickles, no note of an earlier copy."""
    found = {file for pattern in (*FILES, "README.md") for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if file.name != "origin.json")


def _copy(
    files: list[Path], folder: Path, pad_token: str | None, chat_template_set: dict[str, bool | str] | None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if pad_token is not None:
        _write_pad_token(pad_token, folder / "tokenizer_config.json")
    set_in_template(chat_template_set or {}, folder)


def _write_pad_token(token: str, file: Path) -> None:
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if token not in {entry["content"] for entry in config.get("added_tokens_decoder", {}).values()}:
        raise ParamError("pad_token", token, "name one of the tokenizer's special tokens.")
    write_json(file, config | {"pad_token": token})


def shape_of(folder: Path) -> dict[str, Any]:
    """The shape of a model's folder, as a model's file has it."""
    from transformers import AutoConfig

    return asdict(Shape.of(AutoConfig.from_pretrained(folder, trust_remote_code=False)))


def check_shape(model: Model, folder: Path) -> None:
    """Raise BadInput where the model's file plans with another shape than the folder has."""
    if model.shape is None:
        return
    found = shape_of(folder)
    for key, value in model.shape.items():
        if found[key] != value:
            raise BadInput(model.source, f"shape.{key}", value, f"write {found[key]}, as {folder.name} is published.")


def check_model_folder(folder: Path, *, padded: bool = False, set_later: Collection[str] = ()) -> int:
    """Check that a Hugging Face folder is complete and that model and tokenizer fit each other.

    Args:
        padded: whether the model may have more embeddings than the tokenizer has tokens, as published ones do. Their
            training has left the surplus next to no probability; random weights would give it its full share.
        set_later: of `pad_token` and `chat_template_set`, what a copy of the folder will be given.

    Returns:
        Number of parameters in its files.

    Raises:
        BadInput: config, tokenizer, chat template, end or pad token, or weights are missing or damaged, the model has
            another vocabulary size than the tokenizer, or the chat template tells the date.
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
    if not chat_template(folder):
        raise BadInput(folder / "chat_template.jinja", "file", None, COMPLETE)
    if "chat_template_set" not in set_later:
        require_timeless(tokenizer, folder)
    for key in ("eos_token", "pad_token"):
        if key not in set_later and getattr(tokenizer, key) is None:
            raise BadInput(folder / "tokenizer_config.json", key, None, "name one of the tokenizer's special tokens.")
    if vocab_size < len(tokenizer) or (vocab_size > len(tokenizer) and not padded):
        hint = f"resize the embeddings to len(tokenizer) = {len(tokenizer)}: rollouts and trainer must agree."
        raise BadInput(folder / "config.json", "vocab_size", vocab_size, hint)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadInput(folder / "model.safetensors", "file", None, COMPLETE)
    parameters = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                parameters += sum(prod(file.get_slice(name).get_shape()) for name in names)
        except SafetensorError as error:
            raise BadInput(path, "file", str(error), f"the weights are damaged; {COMPLETE}") from error
    return parameters
