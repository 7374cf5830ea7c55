# SPDX-License-Identifier: Apache-2.0
"""Films: camera paths through a scene, and what a renderer shows along them as a video or as pictures."""

from recon.film.keyframes import read_keyframes
from recon.film.paths import CameraPath, PathOptions, film_lens, load_path, orbit_path, train_path
from recon.film.writing import FilmOptions, FilmReport, render_film

__all__ = [
    "CameraPath",
    "FilmOptions",
    "FilmReport",
    "PathOptions",
    "film_lens",
    "load_path",
    "orbit_path",
    "read_keyframes",
    "render_film",
    "train_path",
]
