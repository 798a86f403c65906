"""What a plugin module may implement. pluggy project name: "spcore".

A plugin is a module named by an entry point of the group "spcore"; the entry point's name is the plugin's. The module
states the API version it was written for, `SPCORE_API = "1.0"`, and imports nothing heavy: targets are strings, imported
on first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pluggy

from spcore.components import Component

PROJECT = "spcore"
API_VERSION = "1.0"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def spcore_components() -> Iterable[Component]:  # type: ignore[empty-body]
    """What this plugin offers.

    Called once for each plugin, when a registry is first asked for a component, in every process. An error marks the plugin
    as broken; the others go on. Two components of one kind and name are told apart as "plugin:name"; the bare name is
    then refused with both named.
    """


@hookspec
def spcore_facts() -> Mapping[str, str]:  # type: ignore[empty-body]
    """What `slimpajama doctor` shows about this plugin's surroundings: kernels chosen, devices, clashes of packages.

    Called by `doctor` alone, so it may import heavy libraries. An error is shown in its place.
    """
