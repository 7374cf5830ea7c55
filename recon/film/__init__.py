# SPDX-License-Identifier: Apache-2.0
"""Films: camera paths through a scene, and what a renderer shows along them as a video or as pictures."""

from recon.film.keyframes import film_through, read_film, read_keyframes, write_film
from recon.film.motion import Keyframe, KeyframedFilm, Motion
from recon.film.paths import CameraPath, PathOptions, film_lens, load_path, orbit_path, train_path
from recon.film.writing import FilmOptions, FilmReport, render_film

__all__ = [
    "CameraPath",
    "FilmOptions",
    "FilmReport",
    "Keyframe",
    "KeyframedFilm",
    "Motion",
    "PathOptions",
    "film_lens",
    "film_through",
    "load_path",
    "orbit_path",
    "read_film",
    "read_keyframes",
    "render_film",
    "train_path",
    "write_film",
]
