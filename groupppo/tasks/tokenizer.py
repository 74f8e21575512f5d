"""A byte-level tokenizer: one token per UTF-8 byte, plus the special tokens of a chat.

transformers 5 rebuilds the tokenizer of every `qwen2` model as `Qwen2Tokenizer` when it is loaded, whatever class
was saved. So it is built as that class from the start, and `save_tokenizer` proves that nothing changes on the way.
"""

from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

PAD, UNKNOWN, USER, ASSISTANT, END = SPECIAL_TOKENS = "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['user', 'assistant'] -%}"
    "{{- raise_exception('roles are user and assistant, not ' ~ message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message['role'] ~ '|>' ~ message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
# Spaces, line breaks, digits, marks and bytes above 127: what a rebuilt tokenizer has been seen to lose.
PROBE = f"{USER}sort 93\n5  é ☃'s{ASSISTANT}1|5;5|-7=+2#12{END}"


def byte_tokenizer(max_length: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE without merges for a model that takes `max_length` tokens: 5 special tokens and 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])},
        merges=[],
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def chat_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a user's message up to where the response begins."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return tokenizer.encode(text, add_special_tokens=False)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer beside its model's `config.json` and prove that it reads back the same.

    Raises:
        ValueError: the tokenizer that `AutoTokenizer` loads from `folder` gives other ids or another chat.
    """
    tokenizer.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    same_ids = loaded.encode(PROBE, add_special_tokens=False) == tokenizer.encode(PROBE, add_special_tokens=False)
    if not (same_ids and len(loaded) == len(tokenizer) and chat_ids(loaded, PROBE) == chat_ids(tokenizer, PROBE)):
        raise ValueError(f"{folder}: the saved tokenizer reads back as another one ({type(loaded).__name__})")
