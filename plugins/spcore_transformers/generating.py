"""What a model's own files say of generating: generation_config.json, else config.json, in the words of `GenerationRequest`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import GenerationConfig
from transformers.utils import logging as talking

from spcore.errors import ArtifactError, RefusalError
from spcore_transformers.source import translated

FILE = "generation_config.json"
_SAME = {
    "num_return_sequences": "n", "num_beams": "beams", "length_penalty": "length_penalty", "early_stopping": "early_stopping",
    "repetition_penalty": "repetition_penalty", "max_new_tokens": "max_new_tokens", "min_new_tokens": "min_new_tokens",
    "no_repeat_ngram_size": "no_repeat_ngram", "forced_bos_token_id": "forced_first", "forced_eos_token_id": "forced_last",
}  # fmt: skip
_DRAWN = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,), "top_h": (), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,), "sequence_bias": (), "guidance_scale": (1, 1.0), "watermarking_config": (), "max_time": (),
    "exponential_decay_length_penalty": (), "begin_suppress_tokens": ([],), "diversity_penalty": (0.0,), "num_beam_groups": (1,),
    "penalty_alpha": (0.0,), "dola_layers": (), "force_words_ids": (), "constraints": (), "stop_strings": ([],), "token_healing": (False,),
    "renormalize_logits": (False,),
}  # fmt: skip
"""Settings that would change what is generated and that nothing here has: values under which they do not, beside None."""


def own_file(source: str, revision: str | None) -> Path | None:
    """The model's generation_config.json; None where it has none. Raises SourceError where the Hub fails."""
    path = Path(source)
    if not source or path.is_file():
        return None
    if path.is_dir():
        return path / FILE if (path / FILE).is_file() else None
    with (
        translated(source, revision),
        contextlib.suppress(EntryNotFoundError),
    ):  # not in a cache that is offline: none either
        return Path(hf_hub_download(source, FILE, revision=revision))
    return None


def own_settings(file: Path | None, config: Any) -> GenerationConfig:
    """As transformers reads them: the file, else what config.json says. Raises ArtifactError for a file that is none."""
    verbosity = talking.get_verbosity()
    talking.set_verbosity_error()  # settings that do not go together are this module's to tell
    try:
        return GenerationConfig.from_pretrained(file.parent) if file else GenerationConfig.from_model_config(config)
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{file}: not settings for generating: {' '.join(str(error).split())[:200]}") from error
    finally:
        talking.set_verbosity(verbosity)


def as_request(settings: GenerationConfig, config: Any, name: str) -> dict[str, Any]:
    """Fields of `GenerationRequest`, and "decoder_start" for an encoder-decoder.

    `max_length` counts an encoder-decoder's answer with its first token, and is taken so; a decoder's prompt is in it too: there it is
    left out, and how long an answer may be is the caller's. Raises RefusalError for a setting that cannot be honoured. name: of the model.
    """
    given = {key: value for key, value in settings.to_dict().items() if value is not None}
    for key, neutral in _NEUTRAL.items():
        if key in given and given[key] not in neutral:
            raise _unsupported(name, key, given[key])
    if not isinstance(given.get("early_stopping", False), bool):
        raise _unsupported(name, "early_stopping", given["early_stopping"])
    found = {field: given[key] for key, field in _SAME.items() if key in given}
    if found.get("beams", 1) == 1:  # of searches alone
        found = {field: value for field, value in found.items() if field not in ("length_penalty", "early_stopping")}
    if given.get("do_sample"):
        found |= {"temperature": 1.0} | {field: given[key] for key, field in _DRAWN.items() if key in given}
    ends = given.get("eos_token_id", config.eos_token_id)
    found["stop"] = () if ends is None else tuple(ends) if isinstance(ends, list) else (int(ends),)
    words = [tuple(word) for word in given.get("bad_words_ids", ())]
    if longer := next((word for word in words if len(word) != 1), None):
        raise _unsupported(name, "bad_words_ids", list(longer))
    never = sorted({*given.get("suppress_tokens", ()), *(word[0] for word in words)}.difference(found["stop"]))
    if never:
        found["suppress"] = tuple(never)
    if config.is_encoder_decoder:
        found |= _of_encoder_decoder(given, config, name)
    return found


def _of_encoder_decoder(given: dict[str, Any], config: Any, name: str) -> dict[str, Any]:
    start = given.get("decoder_start_token_id", getattr(config, "decoder_start_token_id", None))
    start = given.get("bos_token_id", config.bos_token_id) if start is None else start
    if not isinstance(start, int):
        raise RefusalError(
            f"model {name!r}: neither {FILE} nor config.json says by which token an answer begins",
            hint="Set decoder_start_token_id there",
        )
    found: dict[str, Any] = {"decoder_start": start}
    if "max_new_tokens" not in given and given.get("max_length", 0) > 1:
        found["max_new_tokens"] = int(given["max_length"]) - 1
    if "min_new_tokens" not in given and given.get("min_length", 0) > 1:
        found["min_new_tokens"] = int(given["min_length"]) - 1
    return found


def _unsupported(name: str, key: str, value: Any) -> RefusalError:
    return RefusalError(
        f"model {name!r}: its own settings for generating ask for {key} {value!r}, which is not supported",
        hint=f"Take it out of {FILE}",
    )
