"""`slimpajama tokenizer train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spcore_transformers.options import Kind, Style

app = typer.Typer(help="Make tokenizers.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _tokenizer() -> None:
    """Make tokenizers."""


@app.command("train")
def train(
    data: Annotated[str, typer.Option(help="A file, a glob, a folder, a Hub name, or a data set's name.")],
    output: Annotated[Path, typer.Option(help="The tokenizer's folder.")],
    kind: Annotated[Kind, typer.Option(help="How texts are cut.")],
    vocabulary_size: Annotated[
        int | None,
        typer.Option(
            "--vocabulary-size",
            "--vocab-size",
            help="Tokens in all, special ones included; characters: all that occur.",
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The texts' column; default: guessed.")] = None,
    split: Annotated[str | None, typer.Option(help="A split; 'train[:90%]' takes a part.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows at most, the first ones.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the data set; repeatable.")
    ] = None,
    style: Annotated[
        Style | None, typer.Option(help="Whose special tokens; default: bert for wordpiece, else gpt.")
    ] = None,
    special: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=TOKEN", help="pad, bos, eos, unk, cls, sep or mask; repeatable; an empty one is left out."
        ),
    ] = None,
    sentinels: Annotated[
        int | None, typer.Option(help="Tokens <extra_id_N>, for denoising; default: 100 in style t5.")
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Lower-case texts first.")] = False,
    normalise: Annotated[
        str | None, typer.Option("--normalise", "--normalize", help="Unicode normal form: nfc, nfkc.")
    ] = None,
    min_frequency: Annotated[
        int | None, typer.Option(help="Times that a merge (default 2) or a character (1) must occur.")
    ] = None,
    byte_fallback: Annotated[
        bool, typer.Option(help="Characters: write unknown ones as bytes, or as one unknown token.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a tokenizer that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Train a tokenizer on a data set's texts, row by row."""
    from spcore.cli.output import note, result
    from spcore.components import default_registry
    from spcore.given import data_tree
    from spcore.recipe import pairs, typed_pairs
    from spcore_transformers.tokenizer_corpus import train_tokenizer

    tree: dict[str, Any] = {**data_tree(data, None, default_registry(), None), **typed_pairs(sets or [], "--set")}
    found = train_tokenizer(
        tree, output, kind=kind, column=column, split=split, limit=limit, overwrite=overwrite, vocabulary_size=vocabulary_size,
        style=style, special=pairs(special or [], "--special"), sentinels=sentinels, lowercase=lowercase, normalise=normalise,
        min_frequency=min_frequency, byte_fallback=byte_fallback,
    )  # fmt: skip
    if vocabulary_size is not None and found["vocabulary_size"] < vocabulary_size and kind != "bytes":
        note(
            f"vocabulary of {found['vocabulary_size']}, not {vocabulary_size}: the texts have no more that occurs often enough"
        )
    result(found, as_json=as_json)
