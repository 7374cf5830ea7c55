# SPDX-License-Identifier: Apache-2.0
"""Splat PLY files: what we write comes back, what others write is read, what is broken is refused quickly."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.errors import ReconError
from recon.formats.splat_axes import UpAxis, splats_from_world, world_from_splats
from recon.formats.splat_ply import property_names, read_splat_ply, write_splat_ply
from recon.kernels.projection.spherical_harmonics import evaluate_sh
from recon.splats import Splats


def random_splats(count: int, degree: int = 3, seed: int = 0, antialiased: bool = False) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        torch.randn(count, 3, generator=generator) * 3,
        torch.randn(count, 4, generator=generator),
        torch.randn(count, 3, generator=generator) - 3,
        torch.randn(count, generator=generator),
        torch.randn(count, (degree + 1) ** 2, 3, generator=generator) * 0.3,
        antialiased=antialiased,
    )


def covariances(splats: Splats) -> torch.Tensor:
    w, x, y, z = torch.nn.functional.normalize(splats.quats.double(), dim=1).T
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    matrix = torch.stack(rows, 1).reshape(-1, 3, 3) * splats.scales.double()[:, None]
    return matrix @ matrix.transpose(1, 2)


def colors_seen_along(splats: Splats, direction: np.ndarray) -> np.ndarray:
    unit = torch.from_numpy(direction / np.linalg.norm(direction)).expand(len(splats), 3)
    return evaluate_sh(splats.sh.double(), unit, splats.sh_degree).numpy()


def assert_same(found: Splats, expected: Splats, sh_tolerance: float = 0.0) -> None:
    for name in ("means", "quats", "log_scales", "opacity_logits"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.sh.shape == expected.sh.shape
    assert (found.sh - expected.sh).abs().max().item() <= sh_tolerance
    assert found.antialiased == expected.antialiased


QUARTER_TURN = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_a_world_file_comes_back_bit_for_bit(tmp_path: Path, degree: int, antialiased: bool) -> None:
    splats = random_splats(1000, degree, antialiased=antialiased)
    write_splat_ply(splats, tmp_path / "s.ply", up="world")
    assert_same(read_splat_ply(tmp_path / "s.ply"), splats)


@pytest.mark.parametrize("up", ["-y", "+y", "-z"])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_turned_file_comes_back_exactly_but_for_high_harmonics(tmp_path: Path, degree: int, up: UpAxis) -> None:
    splats = random_splats(1000, degree)
    write_splat_ply(splats, tmp_path / "s.ply", up=up)
    assert_same(read_splat_ply(tmp_path / "s.ply"), splats, sh_tolerance=0.0 if degree < 2 else 5e-7)


def test_more_rows_than_one_chunk(tmp_path: Path) -> None:
    splats = random_splats(70001, 0)
    write_splat_ply(splats, tmp_path / "s.ply")
    assert_same(read_splat_ply(tmp_path / "s.ply"), splats)


def test_no_splats_at_all(tmp_path: Path) -> None:
    write_splat_ply(random_splats(0), tmp_path / "s.ply")
    assert len(read_splat_ply(tmp_path / "s.ply")) == 0


@pytest.mark.parametrize(("up", "turns"), [("-y", 1), ("-z", 2), ("+y", 3)])
def test_turning_is_a_rotation_of_positions_shapes_and_colours(up: UpAxis, turns: int) -> None:
    splats = random_splats(50)
    turned = splats_from_world(splats, up)
    rotation = np.linalg.matrix_power(QUARTER_TURN, turns)
    np.testing.assert_allclose(turned.means.numpy(), splats.means.numpy() @ rotation.T.astype(np.float32))
    expected = rotation @ covariances(splats).numpy() @ rotation.T
    np.testing.assert_allclose(covariances(turned).numpy(), expected, rtol=1e-6, atol=1e-9)
    for direction in np.random.default_rng(1).normal(size=(5, 3)):
        np.testing.assert_allclose(
            colors_seen_along(turned, rotation @ direction), colors_seen_along(splats, direction), atol=1e-6
        )
    assert_same(world_from_splats(turned, up), splats, sh_tolerance=5e-7)


def test_world_up_becomes_minus_y_in_an_export() -> None:
    splats = random_splats(1)
    splats.means[0] = torch.tensor([0.0, 0.0, 7.0])
    assert splats_from_world(splats, "-y").means[0].tolist() == [0.0, -7.0, 0.0]


def test_the_header_states_axis_filter_and_standard_properties(tmp_path: Path) -> None:
    write_splat_ply(random_splats(2, antialiased=True), tmp_path / "s.ply")
    header = (tmp_path / "s.ply").read_bytes().split(b"end_header\n")[0].decode().splitlines()
    assert "comment Vertical axis: 0 -1 0" in header
    assert "comment SplatRenderMode: mip" in header
    assert [line.split()[-1] for line in header if line.startswith("property float ")] == property_names(3)
    assert len((tmp_path / "s.ply").read_bytes().split(b"end_header\n", 1)[1]) == 2 * 62 * 4


def test_harmonics_are_channel_major_in_the_file(tmp_path: Path) -> None:
    splats = random_splats(1, 1)
    write_splat_ply(splats, tmp_path / "s.ply", up="world")
    row = np.frombuffer((tmp_path / "s.ply").read_bytes().split(b"end_header\n", 1)[1], "<f4")
    np.testing.assert_array_equal(row[9:18].reshape(3, 3), splats.sh[0, 1:].numpy().T)


# Files of other writers -----------------------------------------------------------------------------------------


def foreign_columns(count: int = 5, rest: int = 9) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    return {name: generator.normal(size=count).astype(np.float32) for name in names}


def foreign_file(
    path: Path,
    columns: dict[str, np.ndarray],
    encoding: str = "binary_little_endian",
    types: dict[str, tuple[str, str]] | None = None,
    comments: tuple[str, ...] = (),
    count: int | str | None = None,
    extra: bytes = b"",
    newline: str = "\n",
) -> Path:
    types = types or {}
    rows = len(next(iter(columns.values())))
    order = ">" if encoding == "binary_big_endian" else "<"
    dtype = np.dtype([(name, order + types.get(name, ("float", "f4"))[1]) for name in columns])
    table = np.zeros(rows, dtype)
    for name, column in columns.items():
        table[name] = column
    lines = ["ply", f"format {encoding} 1.0", *(f"comment {comment}" for comment in comments)]
    lines.append(f"element vertex {rows if count is None else count}")
    lines += [f"property {types.get(name, ('float', 'f4'))[0]} {name}" for name in columns]
    header = newline.join([*lines, "end_header", ""]).encode()
    if encoding == "ascii":
        body = "".join(" ".join(repr(float(value)) for value in row) + newline for row in table.tolist()).encode()
    else:
        body = table.tobytes()
    path.write_bytes(header + body + extra)
    return path


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_encoding_in_any_order_with_unknown_properties(tmp_path: Path, encoding: str, newline: str) -> None:
    columns = foreign_columns()
    shuffled = dict(sorted(columns.items(), reverse=True)) | {"my_label": np.arange(5.0)}
    path = foreign_file(
        tmp_path / "s.ply", shuffled, encoding, {"x": ("double", "f8"), "my_label": ("uchar", "u1")}, newline=newline
    )
    splats = read_splat_ply(path, up="world")
    np.testing.assert_array_equal(splats.means.numpy(), np.stack([columns[n] for n in "xyz"], 1))
    np.testing.assert_array_equal(splats.quats.numpy(), np.stack([columns[f"rot_{i}"] for i in range(4)], 1))
    np.testing.assert_array_equal(splats.sh[:, 2, 1].numpy(), columns["f_rest_4"])
    np.testing.assert_array_equal(splats.opacity_logits.numpy(), columns["opacity"])


@pytest.mark.parametrize(
    ("comments", "up"),
    [
        ((), "-y"),
        (("Vertical axis: y",), "-y"),
        (("Vertical Axis: z",), "+z"),
        (("Vertical axis: 0 1 0",), "+y"),
        (("Vertical axis: 0.1 0 -1",), "-z"),
        (("Vertical axis: nonsense",), "-y"),
    ],
)
def test_the_comments_of_others_say_which_way_is_up(tmp_path: Path, comments: tuple[str, ...], up: UpAxis) -> None:
    path = foreign_file(tmp_path / "s.ply", foreign_columns(), comments=comments)
    assert_same(read_splat_ply(path), read_splat_ply(path, up=up))
    assert not torch.equal(read_splat_ply(path).means, read_splat_ply(path, up="-z" if up != "-z" else "+z").means)


@pytest.mark.parametrize("comment", ["SplatRenderMode: mip", "antialiased 1"])
def test_the_comments_of_others_say_which_filter_was_trained(tmp_path: Path, comment: str) -> None:
    assert read_splat_ply(foreign_file(tmp_path / "s.ply", foreign_columns(), comments=(comment,))).antialiased
    assert not read_splat_ply(foreign_file(tmp_path / "s.ply", foreign_columns())).antialiased


def test_integers_are_converted(tmp_path: Path) -> None:
    columns = foreign_columns() | {"f_dc_0": np.array([0, 1, 2, 3, 255])}
    splats = read_splat_ply(foreign_file(tmp_path / "s.ply", columns, types={"f_dc_0": ("uchar", "u1")}))
    assert splats.sh[:, 0, 0].tolist() == [0, 1, 2, 3, 255]


def test_2dgs_without_a_third_scale_is_flat(tmp_path: Path) -> None:
    columns = foreign_columns()
    del columns["scale_2"]
    splats = read_splat_ply(foreign_file(tmp_path / "s.ply", columns), up="world")
    assert splats.scales[:, 2].max() < 1e-8
    assert (splats.scales[:, 2] > 0).all()
    np.testing.assert_array_equal(splats.log_scales[:, 1].numpy(), columns["scale_1"])


@pytest.mark.parametrize(("rest", "degree"), [(0, 0), (9, 1), (24, 2), (45, 3), (72, 3)])
def test_the_degree_follows_from_the_harmonics_present(tmp_path: Path, rest: int, degree: int) -> None:
    columns = foreign_columns(rest=rest)
    splats = read_splat_ply(foreign_file(tmp_path / "s.ply", columns), up="world")
    assert splats.sh_degree == degree
    if rest:
        np.testing.assert_array_equal(splats.sh[:, 1, 2].numpy(), columns[f"f_rest_{2 * rest // 3}"])


def test_other_elements_around_the_splats(tmp_path: Path) -> None:
    columns = foreign_columns()
    data = foreign_file(tmp_path / "s.ply", columns).read_bytes()
    header, body = data.split(b"end_header\n", 1)
    before = header.replace(b"element vertex", b"element camera 2\nproperty short id\nelement vertex")
    after = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "s.ply").write_bytes(before + after + b"abcd" + body + b"\3" + bytes(12))
    np.testing.assert_array_equal(read_splat_ply(tmp_path / "s.ply", up="world").means[:, 0], columns["x"])


class Log:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str, total: float | None = None, unit: str = "") -> None:
        raise AssertionError("reading a small file opens no stage")

    def log(self, message: str) -> None:
        self.lines.append(message)


def test_what_has_an_obvious_meaning_is_mended_and_told(tmp_path: Path) -> None:
    columns = foreign_columns()
    columns["opacity"][1] = np.inf
    columns["scale_0"][2] = -np.inf
    for i in range(4):
        columns[f"rot_{i}"][3] = 0
    log = Log()
    splats = read_splat_ply(foreign_file(tmp_path / "s.ply", columns), up="world", progress=log)  # type: ignore[arg-type]
    assert splats.opacities[1] == 1
    assert 0 < splats.scales[2, 0] < 1e-8
    assert splats.quats[3].tolist() == [1, 0, 0, 0]
    assert len(log.lines) == 2


def test_not_finite_is_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    columns = foreign_columns()
    columns["f_rest_3"][2] = np.nan
    columns["x"][4] = -np.inf
    path = foreign_file(tmp_path / "s.ply", columns)
    with pytest.raises(ReconError, match=r"2 of 5 splats .* number 2, its f_rest_3"):
        read_splat_ply(path)
    log = Log()
    splats = read_splat_ply(path, up="world", not_finite="drop", progress=log)  # type: ignore[arg-type]
    np.testing.assert_array_equal(splats.means[:, 0].numpy(), columns["x"][[0, 1, 3]])
    assert "2 of 5" in log.lines[0]


def test_splats_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    splats = random_splats(3)
    splats.means[1, 1] = float("nan")
    with pytest.raises(ReconError, match="1 of 3"):
        write_splat_ply(splats, tmp_path / "s.ply")
    assert not list(tmp_path.iterdir())


# Hostile files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("count", [4, 6, 10**9, 10**18, "9" * 5000])
def test_a_lying_count_is_refused_before_anything_is_allocated(tmp_path: Path, encoding: str, count: int | str) -> None:
    path = foreign_file(tmp_path / "s.ply", foreign_columns(), encoding, count=count)
    started = time.perf_counter()
    with pytest.raises(ReconError, match=r"promises|ends at row"):
        read_splat_ply(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("name", ["x", "f_dc_1", "f_rest_4", "opacity", "scale_1", "rot_3"])
def test_a_missing_property_is_named(tmp_path: Path, name: str) -> None:
    columns = foreign_columns()
    del columns[name]
    with pytest.raises(ReconError, match=name if name != "f_rest_4" else "8 properties f_rest"):
        read_splat_ply(foreign_file(tmp_path / "s.ply", columns))


def test_a_list_where_a_number_belongs(tmp_path: Path) -> None:
    data = foreign_file(tmp_path / "s.ply", foreign_columns()).read_bytes()
    (tmp_path / "s.ply").write_bytes(data.replace(b"property float opacity", b"property list uchar float opacity"))
    with pytest.raises(ReconError, match="opacity are lists"):
        read_splat_ply(tmp_path / "s.ply")


def mutations() -> dict[str, tuple[bytes, bytes]]:
    return {
        "no magic": (b"ply\n", b"pl\n"),
        "no end": (b"end_header", b"ending"),
        "type": (b"property float x", b"property quaternion x"),
        "text as a type": (b"property float x", b"property string x"),
        "format": (b"binary_little_endian", b"binary_middle_endian"),
        "no format": (b"format binary_little_endian 1.0\n", b""),
        "negative": (b"vertex 5", b"vertex -5"),
        "a word": (b"vertex 5", b"vertex five"),
        "digits of another script": (b"vertex 5", "vertex ५".encode()),
        "not utf-8": (b"vertex 5", b"vertex \xff\xfe"),
        "twice": (b"property float y", b"property float x"),
        "two elements": (b"end_header", b"element vertex 1\nproperty float x\nend_header"),
        "no properties": (b"element vertex", b"element nothing 3\nelement vertex"),
        "no vertices": (b"element vertex", b"element point"),
        "schema": (b"element vertex", b"comment recon splats schema 99\nelement vertex"),
        "packed": (b"property float x", b"property uint packed_position\nproperty float x"),
        "garbage line": (b"element vertex", b"hello world\nelement vertex"),
        "an absurd element before": (b"element vertex", b"element a 99999999999999\nproperty double a\nelement vertex"),
        "surplus": (b"end_header\n", b"end_header\n" + b"1" * 88),
        "a little surplus": (b"end_header\n", b"end_header\n12"),
    }


@pytest.mark.parametrize("mutation", mutations())
def test_a_broken_header_is_refused(tmp_path: Path, mutation: str) -> None:
    data = foreign_file(tmp_path / "s.ply", foreign_columns()).read_bytes()
    old, new = mutations()[mutation]
    assert old in data
    (tmp_path / "s.ply").write_bytes(data.replace(old, new, 1))
    with pytest.raises(ReconError):
        read_splat_ply(tmp_path / "s.ply")


@pytest.mark.parametrize(
    "content",
    [b"", b"p", b"ply", b"ply\n", b"plywood\n" * 1000, b"\x89PNG\r\n" * 100, b"ply\n" + b"comment a\n" * 200_000],
)
def test_files_that_are_no_ply(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.ply").write_bytes(content)
    with pytest.raises(ReconError):
        read_splat_ply(tmp_path / "s.ply")


@pytest.mark.parametrize("text", [b"one two three\n", b"1 2 3\n", b"0x1p3 " * 21 + b"0x10\n"])
def test_text_rows_that_are_no_numbers(tmp_path: Path, text: bytes) -> None:
    data = foreign_file(tmp_path / "s.ply", foreign_columns(), "ascii").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    rows = body.splitlines(keepends=True)
    rows[2] = text + b" " * (len(rows[2]) - len(text))
    (tmp_path / "s.ply").write_bytes(header + b"end_header\n" + b"".join(rows))
    with pytest.raises(ReconError, match="row"):
        read_splat_ply(tmp_path / "s.ply")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = foreign_file(tmp_path / "whole.ply", foreign_columns()).read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "s.ply").write_bytes(data[:length])
        with pytest.raises(ReconError):
            read_splat_ply(tmp_path / "s.ply")


def test_random_bytes_in_a_header_never_raise_anything_else(tmp_path: Path) -> None:
    data = foreign_file(tmp_path / "whole.ply", foreign_columns()).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for position in generator.integers(0, len(data), 3):
            broken[position] = generator.integers(0, 256)
        (tmp_path / "s.ply").write_bytes(bytes(broken))
        with contextlib.suppress(ReconError):
            read_splat_ply(tmp_path / "s.ply")


def test_no_file_a_folder_and_an_unknown_axis(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ply", tmp_path):
        with pytest.raises(ReconError):
            read_splat_ply(path)
    with pytest.raises(ReconError, match="up axis"):
        write_splat_ply(random_splats(1), tmp_path / "s.ply", up="north")  # type: ignore[arg-type]


def test_a_point_cloud_is_named_as_such(tmp_path: Path) -> None:
    columns = {name: np.zeros(3) for name in ("x", "y", "z", "red")}
    with pytest.raises(ReconError, match="a mesh or a point cloud"):
        read_splat_ply(foreign_file(tmp_path / "s.ply", columns))


def test_a_compressed_file_of_another_program_is_named_as_such(captures: Path) -> None:
    with pytest.raises(ReconError, match="compressed"):
        read_splat_ply(captures / "splats" / "biker.compressed.ply")
