"""Tokenizers trained here: what goes in comes out again, the same data gives the same files, and nothing is half written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore.errors import SlimPajamaError
from spcore_transformers.options import TokenizerOptions
from spcore_transformers.tokenizer_corpus import train_tokenizer
from spcore_transformers.tokenizer_training import train

TEXTS = [
    "The quick brown fox jumps over the lazy dog.\nThe dog sleeps; the fox does not.",
    "Wer reitet so spät durch Nacht und Wind?\tEs ist der Vater mit seinem Kind.",
    "def add(a, b):\n    return a + b  # 1 + 2 == 3\n",
    "天地玄黃,宇宙洪荒。The fox again, and the dog, and the dog.",
] * 8
LOSSLESS: dict[str, dict[str, Any]] = {
    "bpe": {"kind": "bpe", "vocabulary_size": 400},
    "unigram": {"kind": "unigram", "vocabulary_size": 400},
    "characters": {"kind": "characters"},
    "bytes": {"kind": "bytes"},
}
MADE = {name: train(TEXTS, TokenizerOptions(**options)) for name, options in LOSSLESS.items()}


@pytest.mark.parametrize("name", LOSSLESS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60) | st.sampled_from(TEXTS))
def test_every_text_comes_back(name: str, text: str) -> None:
    made = MADE[name]
    assert made.decode(made.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def as_seen(folder: Path) -> dict[str, str]:
    """Checksums of a folder's files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


SCRIPT = """
import json, sys
from pathlib import Path
from spcore_transformers.tokenizer_corpus import train_tokenizer
rows, folder, every = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
for n, options in enumerate(every):
    train_tokenizer(rows, folder / str(n), progress=False, **options)
"""


def test_the_same_data_gives_the_same_files_in_another_process(tmp_path: Path) -> None:
    """Hash tables have another order there."""
    every = [
        *LOSSLESS.values(),
        {"kind": "wordpiece", "vocabulary_size": 160, "lowercase": True},
        {"kind": "unigram", "vocabulary_size": 480, "style": "t5"},
    ]
    rows = [{"text": text} for text in TEXTS]
    for name in ("one", "two"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(rows), str(tmp_path / name), json.dumps(every)],
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for n in range(len(every)):
        assert as_seen(tmp_path / "one" / str(n)) == as_seen(tmp_path / "two" / str(n)), every[n]


def rows_of(*texts: Any) -> list[dict[str, Any]]:
    """Rows with a column of text."""
    return [{"text": text} for text in texts]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "characters", "bytes"])
def test_transformers_opens_what_is_written(kind: str, tmp_path: Path) -> None:
    size = {} if kind in ("characters", "bytes") else {"vocabulary_size": 420}
    report = train_tokenizer(rows_of(*TEXTS, "", None), tmp_path / "made", kind=kind, **size)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    assert opened.is_fast
    assert len(opened) == report["vocabulary_size"] <= size.get("vocabulary_size", 420)
    assert sorted(opened.get_vocab().values()) == list(range(len(opened)))
    assert (report["rows"], report["rows_without_text"]) == (len(TEXTS) + 2, 2)
    assert report["characters"] == sum(map(len, TEXTS))
    assert report["bytes"] == sum(len(text.encode()) for text in TEXTS)
    ids = [opened(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert report["tokens_per_character"] == pytest.approx(sum(map(len, ids)) / report["characters"])
    text = "The fox, the dog"
    if kind == "wordpiece":
        assert opened.convert_ids_to_tokens(opened(text)["input_ids"])[0] == "[CLS]"
        assert opened("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
        assert {opened.pad_token, opened.mask_token, opened.sep_token} == {"[PAD]", "[MASK]", "[SEP]"}
        assert report["unknown_tokens"] == sum(line.count(opened.unk_token_id) for line in ids)
    else:
        assert opened.decode(opened(text)["input_ids"]) == text
        assert (opened.pad_token, opened.eos_token, opened.bos_token) == ("<|pad|>", "<|endoftext|>", None)
        assert report["unknown_tokens"] == 0


def test_styles_and_special_tokens(tmp_path: Path) -> None:
    train_tokenizer(
        rows_of(*TEXTS), tmp_path / "t5", kind="unigram", vocabulary_size=480, style="t5", special={"mask": "<mask>"}
    )
    t5 = transformers.AutoTokenizer.from_pretrained(tmp_path / "t5")
    assert t5("fox")["input_ids"][-1] == t5.eos_token_id
    size = len(t5)  # T5's order: the first sentinel is the vocabulary's last token
    assert (t5.convert_tokens_to_ids("<extra_id_0>"), t5.convert_tokens_to_ids("<extra_id_99>")) == (
        size - 1,
        size - 100,
    )
    assert {"<extra_id_0>", "<extra_id_99>", "<mask>"} <= set(t5.all_special_tokens)
    assert t5("a <extra_id_7> b", add_special_tokens=False)["input_ids"].count(size - 8) == 1
    train_tokenizer(
        rows_of(*TEXTS), tmp_path / "gpt", kind="bytes", special={"bos": "<|endoftext|>", "pad": ""}, sentinels=3, lowercase=True,
        normalise="nfc",
    )  # fmt: skip
    gpt = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt")
    assert (gpt.pad_token, gpt.bos_token_id, gpt.eos_token_id, len(gpt)) == (None, 0, 0, 1 + 256 + 3)
    assert gpt.decode(gpt("ÄE\u0301")["input_ids"]) == "äé"


def test_characters_outside_the_vocabulary(tmp_path: Path) -> None:
    known = TokenizerOptions(kind="characters", min_frequency=2)
    with_bytes = train(["aabbc"], known)
    assert with_bytes.encode("abc").tokens == ["a", "b", "<0x63>"]
    alone = train(["aabbc"], TokenizerOptions(kind="characters", min_frequency=2, byte_fallback=False))
    assert (alone.encode("abcc").tokens, alone.get_vocab_size()) == (["a", "b", "<unk>", "<unk>"], 3 + 2)
    few = train(["aaabbc"], TokenizerOptions(kind="characters", vocabulary_size=5, byte_fallback=False))
    assert few.encode("ab c").tokens == ["a", "b", "<unk>", "<unk>"]


def refused(**options: Any) -> str:
    """The one line about options."""
    with pytest.raises(SlimPajamaError) as caught:
        train([], TokenizerOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_contradicts_itself_is_refused() -> None:
    assert refused(kind="bpe").startswith("vocabulary_size: kind bpe needs one; 8000 suits")
    assert (
        refused(kind="bytes", vocabulary_size=300) == "vocabulary_size 300: kind bytes has no use for it; leave it out"
    )
    assert refused(kind="bpe", vocabulary_size=258) == "vocabulary_size 258: special tokens and bytes alone need 259"
    assert refused(kind="unigram", vocabulary_size=400, style="t5", sentinels=200).endswith("alone need 460")
    assert refused(kind="bytes", special={"pda": "x"}).startswith("special: unknown role 'pda'; did you mean 'pad'?")
    assert refused(kind="wordpiece", vocabulary_size=99, special={"unk": ""}).startswith(
        "special unk: kind wordpiece needs"
    )
    assert refused(kind="bpe", vocabulary_size=900, style="bert", special={"sep": ""}).startswith(
        "special sep: style bert"
    )


def test_nothing_is_overwritten_or_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path, **options: Any) -> str:
        with pytest.raises(SlimPajamaError) as caught:
            train_tokenizer(rows_of("a b"), folder, **{"kind": "characters", **options})
        return str(caught.value)

    made = tmp_path / "made"
    train_tokenizer(rows_of("a b"), made, kind="characters")
    before = as_seen(made)
    assert make(made) == f"{made}: a tokenizer is there. Give another folder, or --overwrite"
    train_tokenizer(rows_of("a b c"), made, kind="characters", overwrite=True)
    assert as_seen(made) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "not empty, and no tokenizer's own folder: thesis.txt" in make(tmp_path / "mine", overwrite=True)
    assert "is a file; a tokenizer is a folder" in make(tmp_path / "mine" / "thesis.txt")
    assert make(tmp_path / "new", kind="characters", column="no").startswith(f"{tmp_path}") is False
    assert make(tmp_path / "new", kind="letters").startswith("kind 'letters': ")

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", fails)
    before = as_seen(made)
    assert "no space left on the disk" in make(made, overwrite=True)
    assert as_seen(made) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "mine"]
    with pytest.raises(SlimPajamaError, match="no text in 2 rows"):
        train_tokenizer(rows_of("", None), tmp_path / "new", kind="characters")


def test_the_command(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"n": n, "body": text}) + "\n" for n, text in enumerate(TEXTS)))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "slimpajama", "tokenizer", "train", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)

    done = run(
        "--data", str(data), "--column", "body", "--limit", "4", "--kind", "bpe", "--vocabulary-size", "5000", "--output", "made",
        "--special", "mask=<mask>", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["kind"], report["rows"]) == ("bpe", 4)
    assert f"vocabulary of {report['vocabulary_size']}, not 5000" in done.stderr
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "made").mask_token == "<mask>"
    again = run("--data", str(data), "--kind", "bytes", "--output", "made")
    assert (again.returncode, again.stdout) == (1, "")
    assert (
        again.stderr.strip() == f"error: {tmp_path / 'made'}: a tokenizer is there. Give another folder, or --overwrite"
    )
