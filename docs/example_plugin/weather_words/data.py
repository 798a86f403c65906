"""A data set made of words, and a precision policy."""

from spcore.errors import SourceError, unknown
from spcore.interfaces.dataset import Column, Dataset, Schema, Source
from spcore.interfaces.precision import PrecisionPolicy

POLICY = PrecisionPolicy("weather-bf16", compute="bfloat16")
WORDS = {"sun": ("bright", "clear", "warm"), "rain": ("wet", "grey", "pouring"), "snow": ("white", "frozen", "icy")}
PLACES = ("the coast", "the hills", "the old town", "the airport", "our street", "the valley")
ROWS = [{"text": f"A {w} morning over {p}.", "label": label} for label in WORDS for w in WORDS[label] for p in PLACES]


class Sentences(Dataset, Source):
    """54 sentences. It has one split, so it is that split's source itself."""

    length, fingerprint = len(ROWS), "weather-sentences-1"
    schema = Schema(
        {"text": Column("text"), "label": Column("text", tuple(WORDS), dict.fromkeys(WORDS, 18))}, "weather"
    )

    def open(self, split):
        """The one split."""
        if split not in (None, "train"):
            raise SourceError(f"data 'weather': {unknown('split', split, ['train'])}")
        return self

    def read(self, ids):
        """Rows by position."""
        return [ROWS[i] for i in ids]

    def stream(self, shard, shards, skip):
        """Every `shards`th row."""
        yield from ROWS[shard::shards][skip:]
