# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old version or the new one, never half of each.

Everything that recon writes goes to a temporary name in the same folder first, is flushed to the disk and then
renamed over the target, so a killed process or a full disk leaves the last good file in place.  JSON documents
carry a `schema` number, and reading refuses keys that nobody wrote on purpose.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError

if TYPE_CHECKING:
    import numpy as np

TEMPORARY_MARK = ".recon-tmp-"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target` that replaces it when the block ends without an error.

    The temporary name keeps the suffix of the target, because writers choose a format by it.

    Raises:
        ReconError: the folder is read-only, missing or full.
    """
    target = Path(target)
    temporary = target.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True) if target.parent.is_dir() else None
        raise_for_os_error(f"writing {target}", error)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target` that replaces it as a whole when the block ends without an error."""
    target = Path(target)
    temporary = target.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{target.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        old = None
        if target.exists():
            old = target.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(4)}-old-{target.name}")
            os.replace(target, old)
        os.replace(temporary, target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise_for_os_error(f"writing the folder {target}", error)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def raise_for_os_error(doing: str, error: OSError) -> None:
    """Turns the operating system's refusals that a user can mend into a `ReconError`; re-raises any other."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise ReconError(
            doing,
            f"{error.strerror} ({error.filename})",
            "a folder that may be written",
            "choose another --out",
        ) from error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ReconError(
            doing,
            "the disk is full",
            "free space",
            "free some space or choose another --out, then run it again",
        ) from error
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT):
        raise ReconError(
            doing, f"{error.strerror} ({error.filename})", "a usable path", "choose another path"
        ) from error
    raise error


def ensure_output_directory(path: Path, doing: str = "preparing the output folder") -> Path:
    """Creates `path` where needed and proves by a small file that it can be written.

    Raises:
        ReconError: it is a file, is read-only or its disk is full.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f"{TEMPORARY_MARK}probe-{secrets.token_hex(4)}"
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise_for_os_error(f"{doing} {path}", error)
    return path


def remove_leftovers(directory: Path) -> int:
    """Deletes temporary files that a killed process left directly in `directory`; returns how many there were."""
    removed = 0
    if not directory.is_dir():
        return 0
    for entry in directory.iterdir():
        if entry.name.startswith(TEMPORARY_MARK):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            removed += 1
    return removed


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any], schema: int) -> None:
    """Writes a JSON object atomically, with its `schema` number first."""
    write_text(path, to_json_text({"schema": schema, **document}) + "\n")


def to_json_text(document: Mapping[str, Any]) -> str:
    """Returns a document as JSON text; numbers that JSON lacks (NaN, infinity) become null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False, default=_plain)


def read_json(path: Path, schema: int, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Reads a JSON object that `write_json` wrote and returns it without its `schema` number.

    Args:
        path: the file.
        schema: the number that this program writes.
        keys: every key that may stand there; None accepts any.

    Raises:
        ReconError: no such file, not JSON, another schema or an unknown key.
    """
    doing = f"reading {path}"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ReconError(doing, f"it is not readable JSON ({error})", "a file that recon wrote") from error
    if not isinstance(document, dict):
        raise ReconError(doing, f"it holds a {type(document).__name__}", "a JSON object")
    found = document.pop("schema", None)
    if found != schema:
        raise ReconError(
            doing, f"its schema is {found!r}", f"schema {schema}", "use the version of recon that wrote it"
        )
    if keys is not None:
        unknown = sorted(set(document) - set(keys))
        if unknown:
            raise ReconError(doing, f"unknown keys {', '.join(unknown)}", f"only {', '.join(sorted(keys))}")
    return document


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named numpy arrays as one safetensors file, atomically."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, str(temporary), metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            # The library wraps the system's refusals, a full disk above all, in an error of its own.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads every array of a safetensors file.

    Raises:
        ReconError: no such file, or not a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(str(path))
    except FileNotFoundError as error:
        raise ReconError(f"reading {path}", "there is no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ReconError(f"reading {path}", f"it is not a whole safetensors file ({error})") from error


def fingerprint(*parts: object) -> str:
    """Returns a short stable hash of JSON-like values; what a cache or a finished stage is keyed by."""
    text = json.dumps(parts, sort_keys=True, default=_plain, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> list[Any]:
    """Returns what tells one version of a file from another without reading it: name, size, modification time."""
    status = Path(path).stat()
    return [Path(path).name, status.st_size, status.st_mtime_ns]


def _finite(value: Any) -> Any:
    """Returns the document as plain values, with null for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return _finite(_plain(value))


def _plain(value: object) -> object:
    """Turns what JSON does not know into what it knows: dataclasses, paths, numpy scalars and arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    tolist = getattr(value, "tolist", None)
    if tolist is not None:
        return tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
