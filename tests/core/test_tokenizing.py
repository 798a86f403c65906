from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spcore.errors import ArtifactError
from spcore.tokenizing import open_processor
from transformers_plugin.tiny_models import opened, save_tiny


def test_a_processor_is_made_again_from_its_facts(tmp_path: Path) -> None:
    theirs = opened(save_tiny(tmp_path, "bert")).processor
    facts = theirs.portable()
    assert facts is not None
    ours = open_processor(tmp_path, facts)
    for text, pair, length in (("a b c", None, None), ("a b c d", "e", 5), ("x", "y z " * 9, 9), ("ß 中", None, 3)):
        one, other = theirs.encode(text, pair, max_length=length), ours.encode(text, pair, max_length=length)
        assert one.arrays.keys() == other.arrays.keys()
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(array, other.arrays[name])
        assert one.truncated == other.truncated
    assert ours.portable() == facts
    assert ours.decode([5, 6]) == theirs.decode([5, 6])
    ours.save(tmp_path)
    assert open_processor(tmp_path, facts).vocabulary_size == theirs.vocabulary_size


def test_what_is_wrong_with_it_is_one_line(tmp_path: Path) -> None:
    facts = opened(save_tiny(tmp_path, "bert")).processor.portable()
    assert facts is not None
    with pytest.raises(ArtifactError, match="what it says of its processor is not understood"):
        open_processor(tmp_path, {**facts, "strange": 1})
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: cannot be read"):
        open_processor(tmp_path, facts)
