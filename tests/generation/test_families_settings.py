"""What a model's own files say of generating, and what is refused of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_writers as tiny

from spcore.errors import ArtifactError, RefusalError
from spcore.interfaces.model import Steps
from spcore_transformers.decoding import DECODED
from transformers_plugin import tiny_models


def stated(folder: Path, **settings: Any) -> dict[str, Any]:
    """What `generation` makes of such a file."""
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = tiny_models.opened(folder)
    assert isinstance(model, Steps)
    return dict(model.generation())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("bart"), "bart")


def test_ends_and_draws(llama: Path) -> None:
    assert stated(llama, eos_token_id=[3, 7]) == {"stop": (3, 7)}
    assert stated(llama, temperature=0.6, top_p=0.9, eos_token_id=3) == {"stop": (3,)}, (
        "without do_sample nothing is drawn"
    )
    drawn = stated(llama, do_sample=True, temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, eos_token_id=3)
    assert drawn == {"stop": (3,), "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1}
    assert stated(llama, do_sample=True) == {"stop": (3,), "temperature": 1.0}, (
        "the end is config.json's where the file has none"
    )
    limits = stated(
        llama,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        suppress_tokens=[9, 3],
        bad_words_ids=[[8]],
        max_new_tokens=9,
    )
    assert limits == {
        "stop": (3,),
        "repetition_penalty": 1.2,
        "no_repeat_ngram": 3,
        "suppress": (8, 9),
        "max_new_tokens": 9,
    }
    assert stated(llama, max_length=50) == {"stop": (3,)}, "a decoder's counts the prompt: the caller's to say"


def test_an_encoder_decoder(bart: Path) -> None:
    found = stated(
        bart, decoder_start_token_id=2, forced_bos_token_id=0, forced_eos_token_id=3, max_length=12, min_length=4, num_beams=4,
        length_penalty=2.0, early_stopping=True, eos_token_id=3,
    )  # fmt: skip
    assert found == {
        "stop": (3,), "decoder_start": 2, "forced_first": 0, "forced_last": 3, "max_new_tokens": 11, "min_new_tokens": 3, "beams": 4,
        "length_penalty": 2.0, "early_stopping": True,
    }  # fmt: skip
    assert stated(bart)["decoder_start"] == 3, "config.json's"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("typical_p", 0.5), ("guidance_scale", 1.5), ("bad_words_ids", [[8, 9]]), ("early_stopping", "never"), ("num_beam_groups", 2),
        ("stop_strings", ["x"]), ("begin_suppress_tokens", [5]), ("encoder_no_repeat_ngram_size", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(llama: Path, setting: str, value: Any) -> None:
    with pytest.raises(RefusalError, match=f"ask for {setting} .*not supported") as told:
        stated(llama, **{setting: value})
    assert told.value.hint == "Take it out of generation_config.json"


def test_a_file_that_is_none_is_named(llama: Path) -> None:
    (llama / "generation_config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"generation_config\.json: not settings for generating"):
        tiny_models.opened(llama).generation()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["bart", "marian", "t5"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_folder_s_own_settings_give_what_generate_gives(tmp_path: Path, name: str, beams: int) -> None:
    folder = tiny.saved(tmp_path / "model", name)
    settings = {
        "forced_bos_token_id": 11, "forced_eos_token_id": 3, "bad_words_ids": [[0], [20]], "no_repeat_ngram_size": 2, "min_length": 5,
        "max_length": 13, "eos_token_id": [3, 40], "decoder_start_token_id": 0, "pad_token_id": 0, "num_beams": beams, "length_penalty": 2.0,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model, module = tiny.opened(folder)
    own = dict(model.generation())  # type: ignore[attr-defined]
    del own["decoder_start"]
    asked = [
        tiny.GenerationRequest(request.ids, **own) for request in tiny.requests(6, seed=12)
    ]  # none whose best beams are equal to the last bit or so
    found = tiny.told(model, tiny.decoder(model, module, slots=7), asked, seed=1)
    whole = tiny.reference(folder)
    for request, row in zip(asked, found, strict=True):
        ids = tiny.torch.tensor([request.ids])
        made = whole.generate(ids, attention_mask=tiny.torch.ones_like(ids))[0].tolist()[1:]
        end = next((n for n, token in enumerate(made) if token in (3, 40)), len(made))
        assert row == made[:end]


def test_a_saved_model_keeps_its_settings(llama: Path, tmp_path: Path) -> None:
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 9]}))
    model = tiny_models.opened(llama)
    model.build(tiny.LANGUAGE)
    model.save_config(tmp_path, tiny.LANGUAGE)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [3, 9]}


def test_other_families_are_refused_by_name_before_weights_are_read(tmp_path: Path) -> None:
    folder = tiny.saved(tmp_path / "model", "other")
    (folder / "model.safetensors").unlink()
    model = tiny_models.opened(folder)
    assert isinstance(model, Steps)
    assert model.family not in DECODED
    with pytest.raises(RefusalError, match="not verified for family 'biogpt', only for bart, bloom, codegen, "):
        model.generation()
    with pytest.raises(RefusalError, match="not verified for family 'biogpt'"):
        model.decoder(tiny.torch.nn.Module(), 2, 8)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_batch_are_refused(tmp_path: Path, kind: str) -> None:
    own = (
        {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
        if kind == "longrope"
        else {}
    )
    folder = tiny.saved(
        tmp_path / "model", "llama", rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, **own}
    )
    with pytest.raises(
        RefusalError, match=f"its rotary positions are '{kind}', in which rows of a batch change each other"
    ):
        tiny_models.opened(folder).generation()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"), ({"quant_method": "awq", "bits": 4}, "awq, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"), ({"quant_method": "fp8"}, "fp8"),
    ],
)  # fmt: skip
def test_quantised_weights_are_refused_by_name(tmp_path: Path, facts: dict[str, Any], said: str) -> None:
    folder = tiny.saved(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": facts}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        RefusalError, match=rf"its weights are quantised \({said}\), for which there is no kernel here"
    ) as told:
        tiny_models.opened(folder)
    assert "GGUF" in str(told.value.hint)
    assert tiny_models.opened(folder, from_scratch=True).family == "llama"
