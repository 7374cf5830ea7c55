# SPDX-License-Identifier: Apache-2.0
"""The films that lie beside a run: `paths/NAME.json`.

Names come from people in browsers, so they are cleaned before they touch the file system, and only files that lie in
the folder itself are ever opened.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from recon.errors import ReconError
from recon.film.keyframes import read_film, write_film
from recon.film.motion import KeyframedFilm

LONGEST_NAME = 60

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}

PICTURE_SIZES: dict[str, tuple[int, int]] = {
    "1080p": (1920, 1080),
    "720p": (1280, 720),
    "4k": (3840, 2160),
    "vertical": (1080, 1920),
    "square": (1080, 1080),
}
"""Usual sizes of films, width and height in pixels."""


def picture_size(text: str) -> tuple[int, int]:
    """Returns width and height in pixels of a name in `PICTURE_SIZES` or of WIDTHxHEIGHT, made even.

    Raises:
        ReconError: neither, or a side outside 2 to 16384.
    """
    known = PICTURE_SIZES.get(text.lower())
    if known is not None:
        return known
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text.lower())
    sides = [2 * round(int(side) / 2) for side in found.groups()] if found else []
    if not sides or min(sides) < 2 or max(sides) > 16384:
        raise ReconError(
            "planning a film", f"its size is {text[:40]!r}", f"{', '.join(PICTURE_SIZES)}, or WIDTHxHEIGHT in pixels"
        )
    return sides[0], sides[1]


def clean_name(name: str) -> str:
    """Returns a name that is one harmless file name everywhere: letters, digits, space, - and _.

    Raises:
        ReconError: nothing of it is left.
    """
    text = unicodedata.normalize("NFKC", name)[: 4 * LONGEST_NAME]
    kept = "".join(letter if letter.isalnum() or letter in " -_" else "-" for letter in text)
    # File systems count bytes, and some letters take four.
    kept = kept.strip(" -_").encode()[: 3 * LONGEST_NAME].decode(errors="ignore")[:LONGEST_NAME].strip(" -_")
    if not kept:
        raise ReconError("naming a camera path", f"the name is {name[:40]!r}", "letters or digits")
    return f"{kept}-path" if kept.lower() in _RESERVED else kept


class FilmLibrary:
    """Films by name in one folder, which is made when the first one is saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """Returns what can be loaded, in the order of the alphabet."""
        if not self.folder.is_dir():
            return []
        files = (entry for entry in self.folder.glob("*.json") if entry.is_file() and not entry.name.startswith("."))
        return sorted(entry.stem for entry in files)

    def save(self, name: str, film: KeyframedFilm) -> str:
        """Writes a film, whole or not at all; returns the name that it got.

        Raises:
            ReconError: an impossible name, or the folder cannot be written.
        """
        cleaned = clean_name(name)
        write_film(self.folder / f"{cleaned}.json", film)
        return cleaned

    def load(self, name: str) -> KeyframedFilm:
        """Returns a film that `names` lists.

        Raises:
            ReconError: there is none of that name, or it is broken.
        """
        return read_film(self._file(name))

    def delete(self, name: str) -> None:
        """Deletes a film that `names` lists.

        Raises:
            ReconError: there is none of that name.
        """
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if name not in self.names():
            raise ReconError("opening a camera path", f"there is none called {name[:80]!r}", "one that was saved here")
        return self.folder / f"{name}.json"
