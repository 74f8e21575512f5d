"""Is a folder a model that can be trained, sampled and evaluated?"""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer

from groupppo.errors import BadInput

COMPLETE = "copy the whole Hugging Face folder: config, tokenizer, chat template and safetensors."


def check_model_folder(folder: Path, *, padded: bool = False) -> None:
    """Check that a Hugging Face folder is complete and that model and tokenizer fit each other.

    Args:
        padded: whether the model may have more embeddings than the tokenizer has tokens, as published ones do. Their
            training has left the surplus next to no probability; random weights would give it its full share.

    Raises:
        BadInput: config, tokenizer, chat template, end or pad token, or weights are missing or damaged, or the model
            has another vocabulary size than the tokenizer.
    """
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
