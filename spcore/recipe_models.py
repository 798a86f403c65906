"""What a recipe may say: the core's own settings, their defaults and bounds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from spcore.errors import ArtifactError, DataError, UserError
from spcore.recipe_checks import located
from spcore.recipe_errors import known_as
from spcore.recipe_files import Places
from spcore.recipe_syntax import KeyPath, dotted
from spcore.recipe_tree import inside

_SETTING = re.compile(r"(?:^|: )([a-z_]+(?:\.[\w-]+)+(?=[ :,])|[a-z_]+(?=[:,]))")
"""A setting's path in a line about it."""
DEVICE = r"auto|cpu|cuda(:\d+)?"
Count = Annotated[int, Field(ge=1, lt=2**31)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Part(BaseModel):
    """A component and its options. use: its name; every other key is an option of the component's own."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str = Field(description="name of the component, 'plugin:name' where two plugins offer one")

    @property
    def options(self) -> dict[str, Any]:
        """The component's own options."""
        return dict(self.model_extra or {})


class RowsPart(Part):
    """A data set. What stands here by name is the core's; the rest is the data set's own."""

    columns: dict[str, str] = Field({}, description="the task's name for a column -> its name in the data")
    split: str | None = Field(
        None, description="a split's name, or a part of it: 'train[:90%]', 'train[90%:]', drawn with train.seed"
    )
    limit: int | None = Field(
        None,
        ge=1,
        lt=2**53,
        description="rows at most, the first ones",
        json_schema_extra=known_as("max_samples", "max_train_samples"),
    )

    @property
    def options(self) -> dict[str, Any]:
        """The data set's own options."""
        return dict(self.model_extra or {})


class SourcePart(RowsPart):
    """One of the data sets of a mixture."""

    weight: float | None = Field(
        None, gt=0, description="its share of what is trained on, as part of the sum of all weights",
        json_schema_extra=known_as("probability", "sampling_weight", "proportion", "ratio"),
    )  # fmt: skip


class DataPart(RowsPart):
    """What a run reads: a data set, or a mixture of several."""

    sources: dict[str, SourcePart] | None = Field(
        None, description="a mixture: name -> a data set with its `weight`, in place of `use` and `source`",
        json_schema_extra=known_as("mixture", "datasets", "blend"),
    )  # fmt: skip
    weights_of: Literal["features", "tokens"] = Field(
        "features", description="what the weights of a mixture are shares of; tokens: of data with a length"
    )
    max_length: int | None = Field(
        None,
        ge=4,
        lt=2**31,
        description="tokens of a feature at most; longer texts are cut and counted",
        json_schema_extra=known_as(
            "max_seq_length", "max_seq_len", "max_len", "seq_length", "sequence_length", "model_max_length"
        ),
    )
    stride: int | None = Field(
        None, ge=1, lt=2**31, description="tokens by which windows of a long text overlap; null: they do not, or as is usual for the task",
        json_schema_extra=known_as("doc_stride", "overlap", "window_overlap"),
    )  # fmt: skip
    pack: int | None = Field(
        None, ge=16, lt=2**31, description="tokens of a pack: short features share a sequence; null: none do",
        json_schema_extra=known_as("packing"),
    )  # fmt: skip
    shuffle_buffer: int = Field(
        0, ge=0, lt=2**31, description="features of a stream that are shuffled among each other; 0: none are",
        json_schema_extra=known_as("buffer_size", "shuffle_buffer_size", "shuffle_size"),
    )  # fmt: skip

    @property
    def parts(self) -> dict[str, RowsPart]:
        """Its data sets by the name of the source; the only one has the name ""."""
        return {"": self} if self.sources is None else dict(self.sources)


class TrainSettings(_Closed):
    """How long, in what portions, from which seed."""

    epochs: float | None = Field(
        3,
        gt=0,
        le=1e9,
        description="passes over the data; null where `steps` is given",
        json_schema_extra=known_as("num_epochs", "num_train_epochs", "max_epochs", "n_epochs"),
    )
    steps: Count | None = Field(
        None,
        description="optimizer steps, instead of epochs",
        json_schema_extra=known_as("max_steps", "num_steps", "train_steps", "total_steps"),
    )
    global_batch_size: Count = Field(
        32,
        description="features (with data.pack: packs) of an optimizer step, over all processes",
        json_schema_extra=known_as("batch_size", "train_batch_size", "total_batch_size"),
    )
    micro_batch_size: Count | None = Field(
        None,
        description="features of a microbatch; null: as many as `micro_batch_tokens` holds",
        json_schema_extra=known_as(
            "per_device_train_batch_size",
            "per_device_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
        ),
    )
    micro_batch_tokens: int = Field(
        8192, ge=16, lt=2**31, description="padded tokens of a microbatch at most, where micro_batch_size is null"
    )
    clip_norm: float | None = Field(
        1.0,
        gt=0,
        description="largest norm of all gradients together; null: not clipped",
        json_schema_extra=known_as(
            "max_grad_norm", "grad_clip", "gradient_clipping", "gradient_clip_val", "clip_grad_norm"
        ),
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="of data order, augmentation, new parameters and dropout",
        json_schema_extra=known_as("random_seed"),
    )
    save_every: Count | None = Field(
        None,
        description="steps between checkpoints; null: none are kept",
        json_schema_extra=known_as("save_steps", "checkpoint_every"),
    )
    keep: Count = Field(
        2, description="checkpoints to keep", json_schema_extra=known_as("save_total_limit", "keep_last")
    )
    workers: int = Field(
        0, ge=0, le=64, description="threads that make batches ahead; 0: none; no result depends on it"
    )
    deterministic: bool = Field(False, description="refuse kernels that have no deterministic form")
    nonfinite: Literal["stop", "skip"] = Field("stop", description="what a loss or gradient that is not finite does")


class EvalSettings(_Closed):
    """Evaluation while and after training. metric and keep_best: which step's weights are saved."""

    data: DataPart | None = Field(
        None,
        description="a data set, as under `data`; max_length and columns are taken from there",
        json_schema_extra=known_as("eval_data", "eval_dataset", "validation_data", "validation_file"),
    )
    every: Count | None = Field(
        None,
        description="steps between evaluations; null: at the end only",
        json_schema_extra=known_as("eval_steps", "eval_every", "eval_interval"),
    )
    metric: str | None = Field(
        None,
        description="the metric that counts; null: the task's own",
        json_schema_extra=known_as("metric_for_best_model"),
    )
    keep_best: bool = Field(
        False,
        description="save the best step's weights in place of the last one's",
        json_schema_extra=known_as("load_best_model_at_end"),
    )
    batch_tokens: int = Field(8192, ge=16, lt=2**31, description="padded tokens of an evaluation batch at most")
    generate: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="rows that are answered by generating, the first ones of each source, for tasks that are evaluated so; 0: none, the "
        "loss alone; null: all",
        json_schema_extra=known_as("predict_with_generate", "generate_limit"),
    )


class Recipe(_Closed):
    """A run, whole. Build one with `load_recipe`."""

    model: Part = Field(json_schema_extra=known_as("model_name", "model_name_or_path", "base_model", "model_id"))
    task: Part | None = None
    data: DataPart = Field(
        json_schema_extra=known_as("dataset", "datasets", "dataset_name", "train_data", "train_file")
    )
    strategy: Part = Field(json_schema_extra=known_as("distributed", "parallelism"))
    precision: Part = Field(json_schema_extra=known_as("mixed_precision", "dtype", "torch_dtype", "fp16", "bf16"))
    optimizer: Part = Field(json_schema_extra=known_as("optim", "optimiser"))
    schedule: Part = Field(json_schema_extra=known_as("scheduler", "lr_scheduler", "lr_scheduler_type", "lr_schedule"))
    train: TrainSettings = TrainSettings.model_validate({})
    eval: EvalSettings = EvalSettings.model_validate({})
    adapter: Part | None = Field(None, json_schema_extra=known_as("peft", "lora"))
    loggers: tuple[Part, ...] = Field((), json_schema_extra=known_as("report_to", "logging", "callbacks"))
    launch: Part = Field(json_schema_extra=known_as("launcher"))
    device: str = Field("auto", pattern=f"^({DEVICE})$", description="auto, cpu, cuda, cuda:N")
    output: str | None = Field(
        None,
        description="the run's folder, which becomes the saved model",
        json_schema_extra=known_as("output_dir", "out_dir", "save_dir", "output_path"),
    )
    _places: Places = PrivateAttr(default_factory=Places)

    @contextlib.contextmanager
    def at(self, *path: str) -> Iterator[None]:
        """What is refused inside, with the place of the setting at `path` before it: "recipe.yaml:3: data.source: ...".

        A line that begins with a setting's path keeps it, and has that one's place. A line about the content of a data file
        names that file already.
        """
        try:
            yield
        except UserError as error:
            if not error.placed:
                located(error, self._words(error, path))
            raise

    def _words(self, error: UserError, path: KeyPath) -> str:
        """What a line about a refusal begins with. error: its path is completed where it begins with `data` and
        is about `eval.data`, or one of several sources."""
        if path[-1] == "source":
            error.message = re.sub(r"(^|: )data(?=[.:])", rf"\1{dotted(path[:-1])}", error.message, count=1)
            error.hint = error.hint and re.sub(r"(^|: )data(?=\.)", rf"\1{dotted(path[:-1])}", error.hint)
        tree = self.to_json()
        for found in _SETTING.findall(error.message):
            first, *rest = found.split(".")
            if first in tree and (not rest or not isinstance(tree[first], dict) or rest[0] in tree[first]):
                return self._places.at((first, *rest))
        if isinstance(error, DataError | ArtifactError):
            return ""
        if path[-1] == "source" and inside(tree, path) is None:
            path = path[:-1]  # a data set that has none
        return f"{self._places.at(path)}{dotted(path)}: "

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as JSON: every default in place, parts as {"use": ..., options}."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved recipe as a file that `slimpajama run` takes."""
        from spcore.recipe_yaml import dump_yaml

        return dump_yaml(self.to_json())
