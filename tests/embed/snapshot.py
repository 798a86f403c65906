"""What a process has that an embedded library must leave alone, as a value to compare: `snapshot() == snapshot()`."""

from __future__ import annotations

import faulthandler
import functools
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

TORCH_S = "torchinductor_"
"""A folder that torch makes while it is imported."""


def snapshot() -> dict[str, Any]:
    """Everything. What only exists once a library is imported is there once it is."""
    return {**_process(), **_interpreter(), **_logging(), **_numbers(), **_torch(), **_hugging_face()}


@functools.cache
def torch_s_store() -> None:
    """What torch's store, which processes meet at, has once for a process and keeps: two ends of a pipe."""
    import torch.distributed

    torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was, of what both have."""
    return [
        f"{name}: {was!r} -> {after[name]!r}" for name, was in before.items() if name in after and was != after[name]
    ]


def _process() -> dict[str, Any]:
    mask = os.umask(0)
    os.umask(mask)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    limits = {
        name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS")
    }
    return {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "umask": mask,
        "signal handlers": handlers,
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "limits": limits,
        "locale": locale.setlocale(locale.LC_ALL),
        "open files": _open_files(),
        "threads": Counter(thread.name for thread in threading.enumerate()),
        "children": [child.pid for child in psutil.Process().children(recursive=True)],
        "temporary files": sorted(
            p.name for p in Path(tempfile.gettempdir()).iterdir() if not p.name.startswith(TORCH_S)
        ),
        "temporary folder": tempfile.gettempdir(),
        "start method": multiprocessing.get_start_method(allow_none=True),
    }


def _open_files() -> Counter[str]:
    """What the descriptors are, by kind; the one that lists them left out."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        found[target.partition(":[")[0] if ":[" in target else target] += 1
    return found


def _interpreter() -> dict[str, Any]:
    return {
        "sys.path": list(sys.path),
        "sys.argv": list(sys.argv),
        # transformers' and six's stay: the names of their modules are found by them alone.
        "sys.meta_path": [f for f in sys.meta_path if not {"transformers", "six"} & set(type(f).__module__.split("."))],
        "sys.path_hooks": list(sys.path_hooks),
        "hooks": [sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook, sys.breakpointhook],
        "streams": [sys.stdin, sys.stdout, sys.stderr],
        "tracing": [sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()],
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "garbage collector": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks)],
        "fault handler": faulthandler.is_enabled(),
        "warnings": [list(warnings.filters), warnings.showwarning],
    }


def _logging() -> dict[str, Any]:
    root = logging.getLogger()
    known = {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    every = {
        f"logger {name or 'root'}": [
            logger.level,
            list(logger.handlers),
            list(logger.filters),
            logger.propagate,
            logger.disabled,
        ]
        for name, logger in {"": root, **known}.items()
    }
    general = [logging.root.manager.disable, logging.lastResort, logging.raiseExceptions, logging.getLoggerClass()]
    return {**every, "logging": general, "logging warnings": logging._warnings_showwarning}  # type: ignore[attr-defined]


def _numbers() -> dict[str, Any]:
    found: dict[str, Any] = {"random": random.getstate()}
    if "numpy" in sys.modules:
        import numpy as np

        state = np.random.get_state(legacy=False)
        found["numpy.random"] = (state["bit_generator"], state["state"]["key"].tolist(), state["state"]["pos"])  # type: ignore[call-overload,index]
        found["numpy errors"] = np.geterr()
        found["numpy printing"] = np.get_printoptions()
    return found


def _torch() -> dict[str, Any]:
    if "torch" not in sys.modules:
        return {}
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "torch.random": torch.get_rng_state().tolist(),
        "torch dtype": torch.get_default_dtype(),
        "torch device": torch.get_default_device(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "torch autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "torch autocast type": [torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")],
        "torch deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "torch products": [
            torch.backends.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,
            matmul.fp32_precision,
        ],
        "torch cuda products": (
            matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction,
        ),
        "torch cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.fp32_precision),
        "torch mkldnn": (torch.backends.mkldnn.enabled, torch.backends.mkldnn.deterministic),
        "torch attention": [
            getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
            for name in ("flash", "math", "mem_efficient", "cudnn")
        ],
        "torch printing": vars(torch._tensor_str.PRINT_OPTS),
        "torch groups": torch.distributed.is_initialized(),
    }


def _hugging_face() -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "transformers" in sys.modules:
        from transformers.utils import logging as talking

        found["transformers"] = (talking.get_verbosity(), talking.is_progress_bar_enabled())
    if "datasets" in sys.modules:
        import datasets

        found["datasets"] = (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled())
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.utils import are_progress_bars_disabled
        from huggingface_hub.utils import logging as hub_talking

        found["huggingface_hub"] = (hub_talking.get_verbosity(), are_progress_bars_disabled())
    return found
