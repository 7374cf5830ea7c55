# SPDX-License-Identifier: Apache-2.0
"""Which methods there are.  Ours stand here, one line each; others' come by the entry point group `recon.methods`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from recon.errors import ReconError
from recon.methods.config import TrainConfig
from recon.methods.method import Method

BUILT_IN = {
    "splat": "recon.methods.splat:METHOD",
    "nerf": "recon.methods.nerf:METHOD",
}
ENTRY_POINT_GROUP = "recon.methods"
_registered: dict[str, Method] = {}


def register(method: Method) -> None:
    """Adds a method for the life of the process; for notebooks and tests, where an entry point is too much.

    Raises:
        ReconError: another method has that name.
    """
    if method.name in method_names() and _registered.get(method.name) is not method:
        raise ReconError(f"registering the method {method.name!r}", "there is one of that name", "another name")
    _registered[method.name] = method


def method_names() -> list[str]:
    """Returns the names of all methods, ours first; imports none of them."""
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)} | set(_registered)
    return [*BUILT_IN, *sorted(others - set(BUILT_IN))]


def get_method(name: str) -> Method:
    """Returns a method by name; imports its configuration, not torch.

    Raises:
        ReconError: there is none of that name, or it does not load.
    """
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        found = getattr(import_module(module), attribute)
    else:
        points = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name]
        if not points:
            raise ReconError(
                "choosing a method",
                f"there is none called {name!r}",
                f"one of {', '.join(method_names())}",
                "install the package that brings it",
            )
        try:
            found = points[0].load()
        except Exception as error:  # Whatever a third party's module raises, the user needs to hear whose it is.
            raise ReconError(
                f"loading the method {name!r}", f"{points[0].value} does not load ({type(error).__name__}: {error})"
            ) from error
    if not isinstance(found, Method) or found.name != name:
        raise ReconError(
            f"loading the method {name!r}", f"it is {found!r}", f"a recon.methods.method.Method named {name!r}"
        )
    return found


def method_of(config: TrainConfig) -> Method:
    """Returns the method that a configuration belongs to.

    Raises:
        ReconError: no method has configurations of that class.
    """
    for name in method_names():
        try:
            method = get_method(name)
        except ReconError:  # Another package's method that does not load is no reason to refuse one that does.
            continue
        if type(config) is method.config_type:
            return method
    raise ReconError(
        "choosing a method by its options",
        f"no method has options of the class {type(config).__name__}",
        f"those of one of {', '.join(method_names())}",
    )
