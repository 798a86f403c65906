"""Puts repositories where the loopback Hub looks for them: real files, in the layout of the real Hub, but small.

The heavy libraries are imported inside the functions: a test that only needs the server should not pay for torch.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

GLUE = "nyu-mll/glue"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SST2_FEATURES: Mapping[str, str | Sequence[str]] = {
    "sentence": "string",
    "label": ("negative", "positive"),
    "idx": "int32",
}
_README = "README.md"


def put_model(root: Path, repo_id: str, folder: Path) -> Path:
    """Copies a Hugging Face model folder under a name, and gives the repository's folder."""
    target = root / "models" / repo_id
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def put_tiny_bert(
    root: Path,
    repo_id: str,
    texts: Iterable[str],
    *,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    vocab_size: int = 2000,
    max_length: int = 512,
    seed: int = 0,
) -> Path:
    """Makes a real BERT with random weights, and gives the repository's folder.

    The weights are those of the masked language model, as in the real `bert-base-uncased`: a classifier loaded from
    them gets a new head, with the warnings and the randomness a user would meet.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    target = root / "models" / repo_id
    target.mkdir(parents=True, exist_ok=True)
    vocab = _train_wordpiece(texts, vocab_size)
    (target / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    ids = {token: index for index, token in enumerate(vocab)}
    BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=max_length).save_pretrained(target)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max_length,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertForMaskedLM(config).save_pretrained(target)
    return target


def _train_wordpiece(texts: Iterable[str], size: int) -> list[str]:
    """A lower-cased WordPiece vocabulary in the order of its ids, the special tokens first."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_TOKENS), continuing_subword_prefix="##", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def put_glue(
    root: Path,
    task: str,
    train_rows: Sequence[Mapping[str, Any]],
    validation_rows: Sequence[Mapping[str, Any]],
    test_rows: Sequence[Mapping[str, Any]] = (),
    *,
    features: Mapping[str, str | Sequence[str]] = SST2_FEATURES,
    repo_id: str = GLUE,
) -> Path:
    """Adds one configuration to the GLUE repository, or replaces it, and gives the repository's folder.

    A feature is a type name ("string", "int32", "float32") or, for a class label, the names of its classes. A split
    without rows is left out. Each call adds to what earlier calls declared in README.md, so that one repository holds
    several tasks, as the real one does.
    """
    target = root / "datasets" / repo_id
    rows = {"train": train_rows, "validation": validation_rows, "test": test_rows}
    shutil.rmtree(target / task, ignore_errors=True)
    (target / task).mkdir(parents=True)
    splits = [_put_split(target / task, split, rows[split], features) for split in rows if rows[split]]
    size = sum(int(split["num_bytes"]) for split in splits)
    info = {
        "config_name": task,
        "features": [{"name": name, "dtype": _declared_type(feature)} for name, feature in features.items()],
        "splits": splits,
        "download_size": size,
        "dataset_size": size,
    }
    files = [{"split": split["name"], "path": f"{task}/{split['name']}-*"} for split in splits]
    _declare(target / _README, info, {"config_name": task, "data_files": files})
    return target


def _put_split(
    folder: Path, split: str, rows: Sequence[Mapping[str, Any]], features: Mapping[str, str | Sequence[str]]
) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        name: pa.array([row[name] for row in rows], pa.type_for_alias(_stored_type(feature)))
        for name, feature in features.items()
    }
    path = folder / f"{split}-00000-of-00001.parquet"
    parquet.write_table(pa.table(columns), path)
    return {"name": split, "num_bytes": path.stat().st_size, "num_examples": len(rows)}


def _stored_type(feature: str | Sequence[str]) -> str:
    return feature if isinstance(feature, str) else "int64"


def _declared_type(feature: str | Sequence[str]) -> str | dict[str, Any]:
    """The type as the README of a data set writes it."""
    if isinstance(feature, str):
        return feature
    return {"class_label": {"names": {str(number): name for number, name in enumerate(feature)}}}


def _declare(readme: Path, info: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes one configuration into the README's header, keeping the others."""
    import yaml

    header = yaml.safe_load(readme.read_text(encoding="utf-8").split("---\n")[1]) if readme.exists() else {}
    for key, entry in (("dataset_info", info), ("configs", config)):
        others = [other for other in header.get(key, []) if other["config_name"] != entry["config_name"]]
        header[key] = [*others, dict(entry)]
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    readme.write_text(f"---\n{text}---\n\n# Dataset Card for GLUE\n", encoding="utf-8")
