"""Kind `model`, and the processor that a model carries. What a model can be checked on is a source: a name or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spcore.errors import RefusalError
from spcore.interfaces.model import Chats, LanguageModel, Model, Processor, Stages
from spcore.testing.checks import CannotCheck, Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report, Skipped
from spcore.testing.suites.model_case import ModelCase, difference

_TEXT, _PAIR = "The film was long, but never dull.", "Its music stays with you for days."


@check("model.contract", "it has the members of Model", gate=True)
def model_contract(case: ModelCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.part, Model, "model")


@check("model.opens", "a source opens as a LanguageModel with a configuration, a family and a processor", gate=True)
def model_opens(case: ModelCase) -> Iterator[Wrong]:
    """The source given."""
    case.model = case.part.open(case.source)
    yield from against(case.model, LanguageModel, "language model")
    yield from against(getattr(case.model, "processor", None), Processor, "processor")


@check(
    "model.builds", "a module on the meta device has no storage, and its parts lie where the anatomy says", gate=True
)
def model_builds(case: ModelCase) -> Iterator[Wrong]:
    """For every kind of head that the family has."""
    for kind, head in case.heads().items():
        module, anatomy = case.model.build(head), case.model.anatomy(head)
        real = [name for name, tensor in module.state_dict().items() if not tensor.is_meta]
        if real:
            yield Wrong(f"head {kind!r}: {shown(real)} with storage", "no storage on the meta device")
        parts = (anatomy.embed, anatomy.layers, anatomy.encoder_layers, anatomy.final)
        below = [f"{anatomy.base}.{part}" for part in parts if part]
        modules = {name for name, _ in module.named_modules()}
        for path in (*([anatomy.base] if anatomy.base else []), *below, *anatomy.head):
            if path.lstrip(".") not in modules:
                yield Wrong(f"head {kind!r}: no module {path!r}", "the anatomy's paths in the module that is built")
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for alias, owner in anatomy.tied.items():
            if parameters.get(alias) is None or parameters[alias] is not parameters.get(owner):
                yield Wrong(f"head {kind!r}: {alias} is not {owner}", "tied parameters that are one")


@check("model.forward", "outputs have the names and the axes of the head", gate=True)
def model_forward(case: ModelCase) -> Iterator[Wrong]:
    """With weights, on the CPU."""
    rows = [case.ids(_TEXT), case.ids(_PAIR)[:5]]
    for kind, head in case.heads().items():
        outputs = case.outputs(head, case.padded(rows))
        if set(outputs) != set(head.outputs):
            yield Wrong(f"head {kind!r}: outputs {sorted(outputs)}", f"{sorted(head.outputs)}")
            continue
        sizes = {"sequence": 2, "position": len(rows[0]), "label": head.size}
        for name, axes in head.outputs.items():
            wanted = tuple(sizes.get(axis, -1) for axis in axes)
            found = tuple(outputs[name].shape)
            if len(found) != len(wanted) or any(w not in (-1, f) for w, f in zip(wanted, found, strict=True)):
                yield Wrong(f"head {kind!r}: {name} of shape {found}", f"{axes}: {wanted} (-1: any)")


@check("model.padding", "a sequence gives the same outputs alone and padded beside a longer one")
def model_padding(case: ModelCase) -> Iterator[Wrong]:
    """To 1e-4 of float32 logits."""
    short, long = case.ids(_PAIR)[:5], case.ids(_TEXT)
    for kind in ("token", "custom", "sequence", "vocabulary"):
        head = case.heads().get(kind)
        if head is None:
            continue
        name = next(iter(head.outputs))
        alone = case.outputs(head, case.padded([short]))[name][0]
        beside = case.outputs(head, case.padded([long, short]))[name][1]
        if found := difference(alone, beside[: len(short)] if "position" in head.outputs[name] else beside):
            yield Wrong(
                f"head {kind!r}: padded and alone differ by {found:.3g}", "the same outputs: padding is not attended to"
            )


@check("model.packs", "features in a pack give what they give alone, where the anatomy says so")
def model_packs(case: ModelCase) -> Iterator[Wrong]:
    """Segments and positions given."""
    head = case.heads().get("token") or case.heads().get("vocabulary")
    if head is None or not case.model.anatomy(head).packs:
        raise CannotCheck("its anatomy says that it does not keep packed features apart")
    rows = [case.ids(_TEXT), case.ids(_PAIR), case.ids(_PAIR)[:4]]
    name = next(iter(head.outputs))
    packed = case.outputs(head, case.packed(rows))[name][0]
    at = 0
    for n, row in enumerate(rows):
        alone = case.outputs(head, case.padded([row]))[name][0]
        if found := difference(alone, packed[at : at + len(row)]):
            yield Wrong(f"segment {n + 1} in a pack and alone differ by {found:.3g}", "nothing that crosses a border")
        at += len(row)


@check("model.stages", "cut between layers, its modules give together what they give whole, where it has the ability")
def model_stages(case: ModelCase) -> Iterator[Wrong]:
    """In two stages, the first with one layer."""
    if not isinstance(case.model, Stages):
        raise CannotCheck("it has not the ability Stages")
    for kind, head in case.heads().items():
        try:
            depth = case.model.depth(head)
        except RefusalError:
            continue
        if depth < 2:
            raise CannotCheck(f"it has {depth} layer, too few to be cut")
        inputs = case.padded([case.ids(_TEXT), case.ids(_PAIR)[:5]])
        whole, found = case.outputs(head, inputs), case.staged(head, [range(1), range(1, depth)], inputs)
        for name, output in whole.items():
            if name not in found:
                yield Wrong(f"head {kind!r}: the last stage gives {sorted(found)}", f"the outputs {sorted(whole)}")
            elif gap := difference(output, found[name]):
                yield Wrong(f"head {kind!r}: {name} in two stages and whole differ by {gap:.3g}", "the same outputs")


@check("model.weights", "weights are streamed once each, on the CPU, under the module's names")
def model_weights(case: ModelCase) -> Iterator[Wrong]:
    """Names may be left over; aliases are not stored."""
    head = case.heads().get("vocabulary") or next(iter(case.heads().values()))
    own = {name for name, _ in case.model.build(head).named_parameters(remove_duplicate=False)}
    names: list[str] = []
    for name, tensor in case.model.weights():
        names.append(name)
        if tensor.device.type != "cpu":
            yield Wrong(f"{name} on {tensor.device}", "CPU tensors")
    if not names:
        raise CannotCheck("this source has no weights yet")
    if len(set(names)) != len(names):
        yield Wrong(f"{len(names) - len(set(names))} names more than once", "each name once")
    if not own & set(names):
        yield Wrong(f"weights {shown(sorted(names)[:3])}", f"names as the module has them: {shown(sorted(own)[:3])}")


@check("model.saves", "a folder with its configuration, its processor and its weights opens as the same model")
def model_saves(case: ModelCase) -> Iterator[Wrong]:
    """What a saved model relies on."""
    from spcore.tensors.files import save_safetensors

    head = case.heads().get("sequence") or next(iter(case.heads().values()))
    name, ids = next(iter(head.outputs)), case.ids(_TEXT)
    before = case.outputs(head, case.padded([ids]))[name]
    tied = case.model.anatomy(head).tied
    tensors = [(n, t) for n, t in case.module(head).state_dict().items() if n not in tied]
    with tempfile.TemporaryDirectory() as folder:
        save_safetensors(iter(tensors), Path(folder))
        case.model.save_config(Path(folder), head)
        case.model.processor.save(Path(folder))
        again = ModelCase(case.part, folder)
        again.model = case.part.open(folder)
        if again.ids(_TEXT) != ids:
            yield Wrong(f"ids {shown(again.ids(_TEXT))} after saving, {shown(ids)} before", "the same processor")
            return
        if found := difference(before, again.outputs(head, again.padded([ids]))[name]):
            yield Wrong(f"outputs that differ by {found:.3g} after saving", "the same model")


@check(
    "processor.encodes", "encodings are int64 arrays of one length, the same each time, within max_length", gate=True
)
def processor_encodes(processor: Processor) -> Iterator[Wrong]:
    """A text, a pair, and both cut."""
    import numpy as np

    for pair in (None, _PAIR):
        whole = processor.encode(_TEXT, pair)
        lengths = {name: array.shape for name, array in whole.arrays.items()}
        if (
            "input_ids" not in whole.arrays
            or len(set(lengths.values())) != 1
            or any(a.dtype != np.int64 for a in whole.arrays.values())
        ):
            yield Wrong(f"arrays {lengths}", "int64 arrays [length], input_ids among them")
            return
        ids = whole.arrays["input_ids"]
        if processor.encode(_TEXT, pair).arrays["input_ids"].tolist() != ids.tolist():
            yield Wrong("other ids for the same text", "the same ids each time")
        if ids.min() < 0 or ids.max() >= processor.vocabulary_size:
            yield Wrong(f"ids up to {ids.max()}", f"ids below vocabulary_size, {processor.vocabulary_size}")
        lost = sorted(set(whole.arrays) - set(processor.fill))
        if lost:
            yield Wrong(f"no `fill` for {lost}", "the value that pads each array")
        if whole.truncated:
            yield Wrong(f"truncated {whole.truncated} without max_length", "0")
        cut = processor.encode(_TEXT, pair, max_length=6)
        kept = len(cut.arrays["input_ids"])
        if kept > 6 or cut.truncated != len(ids) - kept:
            yield Wrong(
                f"{kept} tokens and truncated={cut.truncated} of {len(ids)} with max_length=6",
                "6 at most, the others counted",
            )


@check("processor.offsets", "offsets and parts say where each token is from, where the tokenizer can tell")
def processor_offsets(processor: Processor) -> Iterator[Wrong]:
    """(0, 0) and -1 for special tokens."""
    made = processor.encode(_TEXT, _PAIR)
    if made.offsets is None or made.parts is None:
        raise CannotCheck("its tokenizer cannot tell")
    length = len(made.arrays["input_ids"])
    if made.offsets.shape != (length, 2) or made.parts.shape != (length,):
        yield Wrong(f"offsets {made.offsets.shape}, parts {made.parts.shape}", f"{(length, 2)} and {(length,)}")
        return
    for n, ((low, high), part) in enumerate(zip(made.offsets.tolist(), made.parts.tolist(), strict=True)):
        text = (_TEXT, _PAIR)[part] if part in (0, 1) else ""
        if part not in (-1, 0, 1) or not 0 <= low <= high <= len(text):
            yield Wrong(
                f"token {n}: offsets ({low}, {high}), part {part}",
                "characters of its text; (0, 0) and -1 for special tokens",
            )
            return


@check("processor.special", "special tokens are left out when asked for, and in decoding")
def processor_special(processor: Processor) -> Iterator[Wrong]:
    """ids of the vocabulary."""
    for name, number in processor.special.items():
        if not isinstance(number, int) or not 0 <= number < processor.vocabulary_size:
            yield Wrong(f"special {name!r} is {shown(number)}", f"an id below {processor.vocabulary_size}")
    bare = processor.encode(_TEXT, special=False).arrays["input_ids"].tolist()
    marks = {processor.special[name] for name in ("cls", "sep", "bos", "eos") if name in processor.special}
    if marks & set(bare):
        yield Wrong(f"ids {shown(bare)} with special=False", "none of cls, sep, bos, eos")
    whole = processor.encode(_TEXT).arrays["input_ids"].tolist()
    if not isinstance(processor.decode(bare), str) or processor.decode(whole) != processor.decode(bare):
        yield Wrong(
            f"decoded {shown(processor.decode(whole))}", f"{shown(processor.decode(bare))}: special tokens are skipped"
        )


@check("processor.chats", "a conversation's ids are the same each time, tell what was said, and go on into an answer")
def processor_chats(processor: Processor) -> Iterator[Wrong]:
    """Where it has the ability `Chats`, and a template."""
    if not isinstance(processor, Chats) or processor.chat_template is None:
        raise CannotCheck("it has no chat template")
    asked = [{"role": "user", "content": _TEXT}]
    ids, begun = processor.chat(asked), processor.chat(asked, answer=False)
    if not isinstance(ids, tuple) or any(not 0 <= i < processor.vocabulary_size for i in ids):
        yield Wrong(f"ids {shown(ids)}", f"a tuple of ids below {processor.vocabulary_size}")
        return
    if processor.chat(asked) != ids:
        yield Wrong("other ids for the same conversation", "the same ids each time")
    text = processor.chat_text(asked)
    if not isinstance(text, str) or not text.startswith(processor.chat_text(asked, answer=False)):
        yield Wrong(f"the text {shown(text)}", "the conversation's text, then what begins an answer")
    if ids[: len(begun)] != begun:
        yield Wrong(
            f"ids {shown(ids)} with answer=True, {shown(begun)} without",
            "the conversation first, then what begins an answer",
        )
    said = processor.chat([*asked, {"role": "assistant", "content": _PAIR}, {"role": "user", "content": _PAIR}])
    if len(said) <= len(ids) or said == processor.chat([*asked, {"role": "assistant", "content": "No."}, asked[0]]):
        yield Wrong(f"ids {shown(said)} for three messages", "every message in them")
    first = processor.special.get("bos")
    if first is not None and ids[:2] == (first, first):
        yield Wrong(f"ids {shown(ids)}", f"one {first} (bos) in front")
    if strange := [i for i in processor.turn_stop if not 0 <= i < processor.vocabulary_size]:
        yield Wrong(f"turn_stop {shown(strange)}", f"ids below {processor.vocabulary_size}")
    if "" in processor.turn_stop_strings:
        yield Wrong("turn_stop_strings with an empty one", "texts that end an answer")


MODEL_CHECKS: tuple[Check, ...] = (
    model_contract, model_opens, model_builds, model_forward, model_padding, model_packs, model_stages, model_weights, model_saves,
)  # fmt: skip
PROCESSOR_CHECKS: tuple[Check, ...] = (processor_encodes, processor_offsets, processor_special, processor_chats)


def check_model(
    model: Any,
    *,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    where: Where = Where(),  # noqa: B008 -- frozen
) -> Report:
    """Check a model source. source: what is opened; default: `options["source"]`."""
    source = source if source is not None else (options or {}).get("source")
    case = ModelCase(model, source or "")
    if source is None:
        report = run_checks((model_contract,), case, where)
        why = f"it needs a source: options={{'{where.component}': {{'source': ...}}}}"
        left = [item.name for item in (*MODEL_CHECKS[1:], *PROCESSOR_CHECKS)]
        report.skipped += [Skipped(where.plugin, where.component, f"{left[0]} and {len(left) - 1} more", why)]
        return report
    report = run_checks(MODEL_CHECKS, case, where)
    if getattr(getattr(case, "model", None), "processor", None) is not None:
        report.add(check_processor(case.model.processor, where=where))
    return report


def check_processor(processor: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a processor."""
    return run_checks(PROCESSOR_CHECKS, processor, where)
