"""`model.generate` of real families through the library, beside `transformers.generate`, and what is refused before weights are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import opened, save_tiny

from spcore import SlimPajamaError, load_model

Folders = Callable[[str], Path]
PROMPTS = ["a b c d e", "q", "z y x w v u t s r"]


def theirs(folder: Path, prompt: str, **settings: Any) -> list[str]:
    """What transformers writes after a prompt, special tokens left out."""
    config = transformers.AutoConfig.from_pretrained(folder)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not config.is_encoder_decoder:
        ids = ids[:, :-1]  # the tokenizer of these folders ends a text with [SEP]
    with torch.no_grad():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **settings)
    own = made if config.is_encoder_decoder else made[:, ids.shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in own]


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart", "marian"])
def test_texts_are_those_of_transformers(family: str, folder: Folders) -> None:
    """With and without a task: Marian's and BART's are none that is known. All prompts at once, and each alone."""
    model = load_model(folder(family))
    found = model.generate(PROMPTS, max_new_tokens=12)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        (wanted,) = theirs(folder(family), prompt, max_new_tokens=12)
        assert answer["text"] == wanted
        assert "".join(model.stream(prompt, max_new_tokens=12)) == wanted
    best = [answer["text"] for answer in model.generate(PROMPTS[0], max_new_tokens=8, beams=3, n=2)]
    assert best == theirs(folder(family), PROMPTS[0], max_new_tokens=8, num_beams=3, num_return_sequences=2)


def test_a_prompt_ends_where_it_ends(folder: Folders) -> None:
    """A tokenizer that ends texts: a decoder would begin another one, an encoder reads the end."""
    from spcore.fitting import prompt_ids

    processor = opened(folder("llama")).processor
    assert prompt_ids(processor, "a b", encoder=True) == (2, 5, 6, 3)
    assert prompt_ids(processor, "a b", encoder=False) == (2, 5, 6)
    assert prompt_ids(processor, "", encoder=False) == (2,)


@pytest.mark.parametrize(
    ("family", "auto", "words"),
    [
        ("bert", None, "'bert' reads a text from both sides, and writes none"),
        ("bert", "AutoModelForSequenceClassification", "it was trained for labels or numbers (head 'sequence'), and writes no text"),
        ("llama", "AutoModelForSequenceClassification", "it was trained for labels or numbers (head 'sequence'), and writes no text"),
    ],
)  # fmt: skip
def test_models_that_write_nothing(family: str, auto: str | None, words: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", family, auto)
    model = load_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()  # it is refused before
    with pytest.raises(SlimPajamaError) as caught:
        model.generate("a b c")
    assert words in str(caught.value)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)


def test_a_runtime_that_writes_nothing(folder: Folders) -> None:
    with pytest.raises(SlimPajamaError, match=r"^runtime 'onnx' writes no text. Those that do: torch$"):
        load_model(folder("llama"), runtime="onnx").generate("a b c")
