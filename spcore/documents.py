"""What data sets of documents have in common: a share that is held out, and arrays about files that are kept beside the token cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from spcore.errors import DataError
from spcore.files import disk_errors, fault, read_sealed, sealed_files, sealed_text, write_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger("slimpajama.documents")
T = TypeVar("T")


class Holdout(BaseModel):
    """Options that make splits `train` and `validation` of one set of documents."""

    holdout: float | None = Field(
        None, gt=0, lt=1, description="share of the data that is split `validation`, the rest being `train`; null: none"
    )
    holdout_by: Literal["document", "tail"] = Field(
        "document",
        description="document: whole ones, chosen by their content, so that copies stay together; tail: what stands last in each file",
    )

    @model_validator(mode="after")
    def _by(self) -> Holdout:
        if self.holdout is None and self.holdout_by != "document":
            raise ValueError("`holdout_by` says how `holdout` is taken; give that too")
        return self

    def how(self) -> dict[str, Any]:
        """What a fingerprint is made of."""
        return {"holdout": self.holdout, "holdout_by": self.holdout_by}

    def by_content(self, hashes: np.ndarray) -> npt.NDArray[np.bool_]:
        """bool [N], which documents are held out, by hashes of their contents, uint64 [N]."""
        assert self.holdout is not None, "the caller looked"
        held: npt.NDArray[np.bool_] = hashes < hashes.dtype.type(int(self.holdout * 2**64))
        return held

    def empty(self, subject: str, part: str | None, documents: int) -> DataError:
        """What is said of a part that got none."""
        return DataError(
            f"{subject}: split {part!r} is empty: of {documents} documents a share of {self.holdout} is none",
            hint="Give a larger data.holdout, or data.holdout_by=tail",
        )


def kept_array(folder: Path, facts: str, name: str, made: Callable[[dict[str, Any], np.ndarray], T]) -> T | None:
    """What `made` makes of the facts and the array that `keep_array` left in a folder, the array memory-mapped. None, with a warning, where they are
    damaged; None where there are none."""
    import numpy as np

    try:
        known = read_sealed(folder / facts)
        if wrong := fault(folder / name, known.pop("file"), read=False):
            raise ValueError(wrong)
        return made(known, np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged, made anew: %s", folder, error)
        return None


def keep_array(folder: Path, facts: str, name: str, known: Mapping[str, Any], content: np.ndarray) -> None:
    """Write an array and what is known with it; the facts last, with the array's checksum. Raises OutputError."""
    import numpy as np

    (folder / facts).unlink(missing_ok=True)
    with disk_errors(folder / name):
        np.save(folder / name, content)
    entry = sealed_files(folder, "xxh3_128")[name]
    write_text(folder / facts, sealed_text({"file": entry, **known}))
