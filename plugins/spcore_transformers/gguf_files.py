"""GGUF files (llama.cpp's): configuration and tokenizer through transformers, weights one by one, dequantised to float32."""

from __future__ import annotations

import contextlib
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoTokenizer
from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from spcore.errors import ArtifactError, OutputError, SourceError
from spcore.features import cache_folder, fingerprint
from spcore.files import cached
from spcore_transformers.source import translated

SUFFIX = ".gguf"
_READING = 1
"""Changes when the same file gives another configuration or tokenizer."""
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_MAGIC = b"GGUF"
log = logging.getLogger("slimpajama.transformers")


def find(source: str, revision: str | None) -> Path | None:
    """The GGUF file that a source is: a file, a folder with one and no config.json, or OWNER/NAME/FILE.gguf on the Hub; None
    where it is none. Raises SourceError for a folder with several, or for a file that is one part of several."""
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}")) if not (path / "config.json").is_file() else []
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:6])
            raise SourceError(
                f"model {source!r}: the folder has {len(files)} GGUF files: {names}", hint="Name one of them"
            )
        return _whole(files[0]) if files else None
    if path.suffix.lower() != SUFFIX:
        return None
    if path.is_file():
        return _whole(path)
    owner, slash, rest = source.partition("/")
    name, slash, file = rest.partition("/")
    if not slash or source.startswith((".", "/", "~")) or path.parent.is_dir():
        raise SourceError(f"model {source!r}: there is no such file; looked for {str(path.absolute())!r}")
    with translated(source, revision):
        return _whole(Path(hf_hub_download(f"{owner}/{name}", file, revision=revision)))


def _whole(path: Path) -> Path:
    if _PART.search(path.name):
        raise SourceError(
            f"model {str(path)!r}: one part of several; transformers reads whole GGUF files",
            hint="Join the parts with llama.cpp's gguf-split --merge",
        )
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise ArtifactError(f"{path}: not a GGUF file; it does not begin with {_MAGIC.decode()!r}")
    return path


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What readers of a broken file, and transformers of an architecture it does not know, raise as one line."""
    try:
        yield
    except (
        OSError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        struct.error,
        NotImplementedError,
    ) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        if "not supported" in text or isinstance(error, NotImplementedError):
            raise SourceError(f"model {str(path)!r}: transformers does not read this GGUF file: {text}") from error
        raise ArtifactError(f"{path}: not a whole GGUF file: {type(error).__name__}: {text}") from error


def opened(path: Path) -> tuple[Any, Any]:
    """(configuration, tokenizer) of a file. Reading a vocabulary of a GGUF file takes seconds, so both are kept in the cache as transformers
    saves them. Raises ArtifactError, SourceError."""
    about = path.stat()
    stamp = about.st_size, about.st_mtime_ns
    kept = cache_folder() / "gguf" / fingerprint(_READING, transformers_version, str(path.resolve()), stamp)
    if (kept / "config.json").is_file():
        return AutoConfig.from_pretrained(kept), AutoTokenizer.from_pretrained(kept)
    config, tokenizer = _read(path)
    try:
        with cached(kept) as work:
            config.save_pretrained(work)
            tokenizer.save_pretrained(work)
    except OutputError as error:
        log.debug("%s: configuration and tokenizer are not kept: %s", path, error)
    return config, tokenizer


def _read(path: Path) -> tuple[Any, Any]:
    with _readable(path):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for key in ("_model_name_or_path", "quantization_config"):  # the file's title; and weights here are float32
        if hasattr(config, key):
            delattr(config, key)
    if not config.architectures:  # such files hold language models, and do not say so in transformers' words
        writers = (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items(), *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items())
        config.architectures = [name for family, name in writers if family == config.model_type][:1] or None
    return config, tokenizer


class _Mapped:
    """`GGUFReader.data` as a plain array: each of the hundred thousands of its slices costs numpy a third of what a memmap's does."""

    def __set__(self, reader: Any, value: np.ndarray) -> None:
        reader.__dict__["data"] = value.view(np.ndarray)

    def __get__(self, reader: Any, owner: type) -> np.ndarray:
        found: np.ndarray = reader.__dict__["data"]
        return found


def tensors(path: Path, whole: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, float32 CPU tensor), one held at a time; those that transformers makes of several (experts) at the end.
    whole: the family's class with its vocabulary head, without storage. Raises ArtifactError where the file ends too early."""
    # Nobody else needs these.
    from gguf import GGUFReader, dequantize
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        read_field,
    )

    with _readable(path):
        reader = type("Reader", (GGUFReader,), {"data": _Mapped()})(path)
        architecture = read_field(reader, "general.architecture")[0]
        processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=whole.config.to_dict())
        names = get_gguf_hf_weights_map(whole, processor)
    joined: dict[str, Any] = {"tensors": {}}
    for tensor in reader.tensors:
        with _readable(path):
            found = processor.process(
                weights=dequantize(tensor.data, tensor.tensor_type), name=tensor.name, tensor_key_mapping=names,
                parsed_parameters=joined,
            )  # fmt: skip
            if found.name not in names:
                continue
            made = torch.tensor(found.weights, dtype=torch.float32)  # a copy: the file is mapped, and read only
        yield names[found.name], made
    yield from joined["tensors"].items()
