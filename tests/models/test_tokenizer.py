"""The tokenizer: one token per byte, and the same one after it has been saved and loaded."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Config
from transformers.utils.chat_template_utils import jinja2

from groupppo.tasks import tokenizer as module
from groupppo.tasks.tokenizer import byte_tokenizer, chat_ids, save_tokenizer

TOKENIZER = byte_tokenizer(64)
plain = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=127)).filter(lambda text: "<|" not in text)


@given(plain)
def test_a_text_has_one_token_per_byte_and_reads_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(TOKENIZER.all_special_ids)


def test_the_chat_marks_who_speaks_and_ends_only_what_the_assistant_said():
    messages = [{"role": "user", "content": "sort 21"}, {"role": "assistant", "content": "#12"}]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False) == "<|user|>sort 21<|assistant|>#12<|end|>"
    assert TOKENIZER.decode(chat_ids(TOKENIZER, "sort 21")) == "<|user|>sort 21<|assistant|>"


def test_a_role_the_template_does_not_know_is_an_error():
    with pytest.raises(jinja2.exceptions.TemplateError, match="roles are user and assistant"):
        TOKENIZER.apply_chat_template([{"role": "system", "content": "be brief"}], tokenize=False)


def test_the_ids_survive_loading_through_auto_tokenizer(tmp_path):
    Qwen2Config(vocab_size=len(TOKENIZER)).save_pretrained(tmp_path)
    save_tokenizer(TOKENIZER, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert chat_ids(loaded, module.PROBE) == chat_ids(TOKENIZER, module.PROBE)
    assert len(loaded) == len(TOKENIZER)
    assert loaded.chat_template == TOKENIZER.chat_template


def test_a_tokenizer_that_reads_back_differently_is_refused(tmp_path, monkeypatch):
    Qwen2Config(vocab_size=len(TOKENIZER)).save_pretrained(tmp_path)
    other = byte_tokenizer(64)
    other.add_tokens(["sort"])
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "config.json", tmp_path / "other")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "other")
    monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", lambda folder: loaded)
    with pytest.raises(ValueError, match="reads back as another one"):
        save_tokenizer(TOKENIZER, tmp_path)
