from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from spcore.tensors import rng
from spcore.tensors.process import LOCK, computing

CPU = torch.device("cpu")
CUDA, ONEDNN = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    before = (CUDA.fp32_precision, ONEDNN.fp32_precision, torch.get_num_threads())
    yield
    CUDA.fp32_precision, ONEDNN.fp32_precision = before[:2]
    torch.set_num_threads(before[2])


@pytest.mark.parametrize("process", ["untouched", "medium", "own knobs"])
def test_fp32_products_are_the_engine_s_for_a_time(process: str) -> None:
    if process == "medium":
        torch.set_float32_matmul_precision("medium")
    elif process == "own knobs":
        CUDA.fp32_precision = "tf32"
    before = (CUDA.fp32_precision, ONEDNN.fp32_precision)
    with computing():
        assert (CUDA.fp32_precision, ONEDNN.fp32_precision) == ("ieee", "ieee")
        with computing(matmul="tf32"):
            assert (CUDA.fp32_precision, ONEDNN.fp32_precision) == ("tf32", "ieee")
        assert CUDA.fp32_precision == "ieee"
    assert (CUDA.fp32_precision, ONEDNN.fp32_precision) == before
    if process == "medium":
        assert torch.get_float32_matmul_precision() == "medium"


def test_threads_come_back_after_an_error() -> None:
    torch.set_num_threads(2)

    def fails() -> None:
        with computing(threads=1):
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert torch.get_num_threads() == 2


def test_a_second_thread_waits() -> None:
    entered = threading.Event()

    def other() -> None:
        with rng.swapped(rng.seeded(0, CPU), CPU):
            entered.set()

    with computing():
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(5)
    assert entered.is_set()
    assert LOCK.acquire(blocking=False)
    LOCK.release()


def test_a_swapped_generator_goes_on_where_it_was() -> None:
    torch.manual_seed(9)
    expected = torch.rand(6)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    state = rng.seeded(9, CPU)
    drawn = []
    for _ in range(3):
        with rng.swapped(state, CPU):
            drawn.append(torch.rand(2))
        torch.set_rng_state(before)
    assert torch.cat(drawn).equal(expected)


def test_captured_state_is_plain_bytes_and_restores() -> None:
    state = rng.capture(CPU)
    assert {name: tensor.dtype for name, tensor in state.items()} == {"cpu": torch.uint8}
    first = torch.rand(3)
    rng.restore({"cpu": state["cpu"].clone()}, CPU)
    assert torch.rand(3).equal(first)


def test_drawing_leaves_the_process_alone() -> None:
    before = torch.get_rng_state()
    with rng.drawing(5):
        one = torch.rand(2)

    def fails() -> None:
        with rng.drawing(5):
            assert torch.rand(2).equal(one)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert torch.get_rng_state().equal(before)


def test_addresses_differ_by_every_part() -> None:
    found = [rng.address(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1)]]
    assert len(set(found)) == 4
    assert found[0] == 0xF3835521, "crc32 of 0/a: saved runs depend on it"
