# SPDX-License-Identifier: Apache-2.0
"""edits.json: the list of edits, saved beside the run or the splat file that it belongs to.

    {"schema": 1, "done": 2, "operations": [
        {"kind": "delete", "rule": {"kind": "box", "center": [0, 0, 0], "size": [2, 2, 2], ...}, "outside": true},
        {"kind": "select", "rule": {"kind": "range", "attribute": "floater", "low": 0.6, "high": 1}, ...},
        {"kind": "delete", ...}]}

Unknown keys, kinds and schemas are refused, and every number is checked, since a file may come from anybody.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from recon.edits import checks
from recon.edits.edit_list import EditList
from recon.edits.operations import OPERATIONS
from recon.edits.rules import RULES, PinholeView
from recon.errors import ReconError
from recon.files import raise_for_os_error, read_json, write_json

SCHEMA = 1
FILE_NAME = "edits.json"
MOST_BYTES = 64 * 2**20


class EditsChangedError(ReconError):
    """Somebody else has written the file since it was read."""


def edits_path(path: Path | str) -> Path:
    """Returns where the edits of something lie.

    A run's are in its folder, those of the output of `recon run` in the run in it, and those of a splat file (or a
    folder that is one) beside it: scene.ply.edits.json.
    """
    path = Path(path)
    if path.is_dir():
        for folder in (path / "run", path):
            if (folder / "config.json").is_file():
                return folder / FILE_NAME
        path = path.resolve()
    return path.with_name(f"{path.name}.{FILE_NAME}")


def edits_of(path: Path | str) -> EditList:
    """Returns the edits of a run or a splat file; none where nothing was edited.

    Raises:
        ReconError: there are some, but the file cannot be used.
    """
    file = edits_path(path)
    return read_edits(file) if file.exists() else EditList()


def read_edits(file: Path) -> EditList:
    """Reads a file that `write_edits` wrote.

    Raises:
        ReconError: there is none, or it is not such a file.
    """
    doing = f"reading {file}"
    try:
        size = file.stat().st_size
    except OSError as error:
        raise ReconError(doing, "there is no such file") from error
    if size > MOST_BYTES:
        raise ReconError(doing, f"it has {size} bytes", f"at most {MOST_BYTES}")
    document = read_json(file, SCHEMA, ("done", "operations"))
    operations = document.get("operations")
    if not isinstance(operations, list):
        raise ReconError(doing, "it lacks operations", "a list of edits")
    if "done" not in document:
        raise ReconError(doing, "it lacks done", "the number of edits in force")
    decoded = [_decode(entry, OPERATIONS, f"{doing}, edit {index}") for index, entry in enumerate(operations, 1)]
    return EditList(tuple(decoded), document["done"])


def write_edits(file: Path, edits: EditList) -> None:
    """Writes a list of edits, whole or not at all.

    Raises:
        ReconError: the file cannot be written.
    """
    document = {"done": len(edits), "operations": [_encode(operation) for operation in edits.operations]}
    write_json(file, document, SCHEMA)


class EditFile:
    """A file of edits that other programs may write too; a save never takes their edits away unseen."""

    def __init__(self, file: Path) -> None:
        """Opens the edits that lie at `file`; it need not exist."""
        self.path = file
        self._stamp = ""
        self._status: tuple[int, int] | None = None

    def read(self) -> EditList:
        """Returns what is in the file now; the next save builds on it.

        Raises:
            ReconError: the file cannot be used.
        """
        with self._locked():
            self._remember()
            return read_edits(self.path) if self.path.exists() else EditList()

    @property
    def has_changed(self) -> bool:
        """Whether the file is another than the one that was read or saved last."""
        return self._stamp_now() != self._stamp

    @property
    def looks_changed(self) -> bool:
        """As `has_changed`, by the file's size and time alone, for those who look often."""
        return self._status_now() != self._status and self.has_changed

    def save(self, edits: EditList) -> None:
        """Writes the edits.

        Raises:
            EditsChangedError: somebody has written the file since; nothing is written.
            ReconError: the file cannot be written.
        """
        with self._locked():
            if self.has_changed:
                raise EditsChangedError(
                    f"saving {self.path}",
                    "another viewer or program has edited this meanwhile",
                    "the file as it was read",
                    "the edits of the other were loaded; make yours again",
                )
            write_edits(self.path, edits)
            self._remember()

    def _remember(self) -> None:
        self._stamp, self._status = self._stamp_now(), self._status_now()

    def _status_now(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def _stamp_now(self) -> str:
        """Returns a hash of the file's bytes; empty where there is none."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ReconError(f"reading {self.path}", f"it cannot be read ({error.strerror})") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes out between looking at the file and writing it; the folder itself is what is locked."""
        try:
            descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise_for_os_error(f"opening {self.path.parent}", error)
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _encode(value: Any) -> Any:
    """Returns an operation or a rule as JSON values, `kind` first."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    kinds = {kind: name for name, kind in {**OPERATIONS, **RULES}.items()}
    named = {"kind": kinds[type(value)]} if type(value) in kinds else {}
    return named | {field.name: _encode(getattr(value, field.name)) for field in fields(value)}


def _decode(entry: Any, kinds: dict[str, type], doing: str) -> Any:
    """Returns the operation or rule that JSON values stand for; its own checks see to the values."""
    if not isinstance(entry, dict):
        raise ReconError(doing, f"it is {checks.shortened(entry)}", "a JSON object")
    kind = checks.choice(doing, "kind", entry.get("kind"), tuple(kinds))
    return _build(kinds[kind], {name: value for name, value in entry.items() if name != "kind"}, doing)


def _build(target: type, values: dict[str, Any], doing: str) -> Any:
    known = {field.name: field for field in fields(target)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ReconError(doing, f"unknown keys {checks.shortened(', '.join(unknown))}", f"only {', '.join(known)}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing:
        raise ReconError(doing, f"it lacks {', '.join(missing)}", f"all of {', '.join(known)}")
    values = dict(values)
    if values.get("rule") is not None:
        values["rule"] = _decode(values["rule"], RULES, doing)
    if "view" in values:
        if not isinstance(values["view"], dict):
            raise ReconError(doing, f"view is {checks.shortened(values['view'])}", "a JSON object")
        values["view"] = _build(PinholeView, values["view"], doing)
    try:
        return target(**values)
    except ReconError as error:
        raise ReconError(doing, error.found, error.expected) from error
