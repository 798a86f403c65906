"""The process that speaks to Ray for a run: an actor on each node keeps that node's processes. It says on stderr, last, why it ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from spcore.launching.cluster import LEAVE, keep

OWN = "local"
"""Ray's name for one of its own."""


class Node:
    """An actor. Its processes get the GPUs that Ray gave it."""

    def keep(self, told: dict[str, Any], node: int) -> dict[int, int]:
        """See `spcore.launching.cluster.keep`."""
        sys.path[:] = told["path"]
        return keep(told, node)


def drive(asked: dict[str, Any]) -> None:
    """Carry out what launcher `ray` asks for, until it is done or stdin ends: then the caller has no more use for it, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    needs, count = asked["needs"], asked["nodes"]
    further = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    own: dict[str, Any] = {"num_cpus": needs["CPU"], "resources": further, "include_dashboard": False}
    try:
        more = {} if asked["address"] else own
        ray.init(address=asked["address"] or OWN, log_to_driver=False, logging_level="ERROR", **more)
        said = _carried_out(asked["told"], [needs] * count, asked["wait"], ended)
        ray.shutdown()
    except (ConnectionError, RuntimeError, ValueError) as error:  # no cluster there, or one that breaks off
        said = f"Ray: {str(error).strip().splitlines()[0]}"
    print(said, file=sys.stderr, flush=True)
    os._exit(0)


def _carried_out(told: dict[str, Any], needs: list[dict[str, float]], wait: float, ended: threading.Event) -> str:
    """How it ended, a clause for people."""
    group = placement_group(needs, strategy="STRICT_SPREAD" if len(needs) > 1 else "PACK")
    ready, until = group.ready(), wait
    while not ray.wait([ready], timeout=1)[0]:
        until -= 1
        if ended.is_set():
            return "taken back before it had begun"
        if until <= 0:
            return f"Ray has no {len(needs)} nodes with {needs[0]} within {wait:g} s; it has {ray.cluster_resources()}"
    actor = ray.remote(Node)
    answers = []
    for number, need in enumerate(needs):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        cpus, gpus, others = need["CPU"], need.get("GPU", 0), {k: v for k, v in need.items() if k not in ("CPU", "GPU")}
        node = actor.options(num_cpus=cpus, num_gpus=gpus, resources=others, scheduling_strategy=place).remote()
        answers.append(node.keep.remote(told, number))
    left = answers
    grace = LEAVE + 2.0  # in which processes that are told to leave do, and are killed else
    while left and grace > 0:
        done, left = ray.wait(left, timeout=1)
        grace -= 1 if ended.is_set() else 0
        for answer in done:
            try:
                ray.get(answer)
            except ray.exceptions.RayError as error:
                return f"a node of Ray's failed: {str(error).strip().splitlines()[-1]}"
    return "all processes have left"
