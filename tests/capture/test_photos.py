# SPDX-License-Identifier: Apache-2.0
"""Photos: every kind of file comes out upright and readable, or is reported; cameras are told apart; masks follow."""

from __future__ import annotations

import io
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from recon.capture.calibration import read_calibration
from recon.capture.masks import MaskFolder
from recon.capture.photos import find_photos, natural_key, prepare_photos, turned
from recon.capture.pictures import read_mask, read_picture
from recon.capture.prepared import Known, Prepared, load_prepared, save_prepared
from recon.errors import ReconError

WIDTH, HEIGHT = 96, 64


def gradient(shade: int = 0) -> np.ndarray:
    """Red grows to the right, green downwards, so that any turn shows."""
    x, y = np.meshgrid(np.linspace(0, 200, WIDTH), np.linspace(0, 200, HEIGHT))
    return np.stack([x, y, np.full_like(x, 20 + shade)], -1).astype(np.uint8)


def good_pair(folder: Path) -> None:
    for index in range(2):
        Image.fromarray(gradient(index)).save(folder / f"good{index}.jpg", quality=95)


def prepare(folder: Path, out: Path, **known) -> Prepared:
    return prepare_photos(find_photos(folder), out, Known(**known))


def exif_of(**tags) -> Image.Exif:
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    for name, value in tags.items():
        number = int(name[1:], 16)
        (details if number >= 0x8000 and number != 0x8769 else exif)[number] = value
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_orientation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = gradient()
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = exif_of(x0112=orientation)
    options = {"lossless": True} if kind == "webp" else {"quality": 98} if kind == "jpg" else {}
    for index in range(2):
        stored = turned(gradient(9 * index), inverse)
        Image.fromarray(stored).save(tmp_path / f"{index}.{kind}", exif=exif, **options)
    prepared = prepare(tmp_path, tmp_path / "out")
    assert [(photo.width, photo.height) for photo in prepared.photos] == [(WIDTH, HEIGHT)] * 2
    path = tmp_path / "out" / "images" / prepared.photos[0].name
    assert np.abs(read_picture(path).rgb.astype(int) - upright).mean() < 2.5
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.format in ("JPEG", "PNG")


def test_plain_photos_stay_byte_for_byte(tmp_path: Path) -> None:
    good_pair(tmp_path)
    Image.fromarray(gradient(5)).save(tmp_path / "three.PNG")
    Image.fromarray(gradient(6)).save(tmp_path / "four.JPEG")
    prepared = prepare(tmp_path, tmp_path / "out")
    assert [photo.name for photo in prepared.photos] == ["four.JPEG", "good0.jpg", "good1.jpg", "three.PNG"]
    for photo in prepared.photos:
        assert (tmp_path / "out" / "images" / photo.name).read_bytes() == (tmp_path / photo.source).read_bytes()


def write_odd_files(folder: Path) -> None:
    rgb = gradient()
    image = Image.fromarray(rgb)
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=98)
    image.convert("L").save(folder / "grey.jpg", quality=98)
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    image.convert("1").save(folder / "bits.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.tif")
    Image.fromarray(rgb[..., 0].astype(np.float32) / 255).save(folder / "float.tif")
    image.save(folder / "plain.tif")
    image.save(folder / "plain.webp", lossless=True)
    image.save(folder / "pages.tif", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT), "red")])
    image.save(folder / "two.mpo", format="MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=98)
    image.save(folder / "really_png.jpg", format="PNG")
    image.save(folder / "plain.bmp")


def test_every_kind_of_picture_is_taken(tmp_path: Path) -> None:
    write_odd_files(tmp_path)
    prepared = prepare(tmp_path, tmp_path / "out")
    assert not prepared.skipped
    assert len(prepared.photos) == 13
    import cv2

    for photo in prepared.photos:
        path = tmp_path / "out" / "images" / photo.name
        rgb = read_picture(path).rgb.astype(int)
        others = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert np.abs(rgb - others).mean() < 1.5, photo.name
        if "bits" in photo.name:
            continue
        if any(word in photo.source for word in ("grey", "deep", "float")):
            expected = gradient()[..., :1] if "grey" not in photo.source else None
            assert expected is None or np.abs(rgb - expected).mean() < 2, photo.name
        else:
            limit = 16 if "palette" in photo.source else 6 if "cmyk" in photo.source else 3
            assert np.abs(rgb - gradient()).mean() < limit, photo.name
    assert (tmp_path / "out" / "images" / "two.jpg").is_file()
    assert (tmp_path / "out" / "images" / "really_png.png").is_file()


def test_names_that_would_collide_are_kept_apart(tmp_path: Path) -> None:
    for index, name in enumerate(["a.jpg", "a.png", "A.tif", "a_png.jpg"]):
        Image.fromarray(gradient(index * 20)).save(tmp_path / name)
    prepared = prepare(tmp_path, tmp_path / "out")
    names = [photo.name for photo in prepared.photos]
    assert len({name.lower().rpartition(".")[0] for name in names}) == 4
    for photo in prepared.photos:
        shade = 20 * ["a.jpg", "a.png", "A.tif", "a_png.jpg"].index(photo.source)
        blue = read_picture(tmp_path / "out" / "images" / photo.name).rgb[..., 2].mean()
        assert blue == pytest.approx(20 + shade, abs=3)


def broken_files() -> dict[str, tuple[bytes, str]]:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "PNG")
    png = buffer.getvalue()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return {
        "text.jpg": (b"This is a shopping list.", "not a picture"),
        "cut.jpg": (jpeg[: len(jpeg) * 2 // 3], "damaged"),
        "almost.jpg": (jpeg[: len(jpeg) - 200], "damaged"),
        "head.jpg": (jpeg[:100], ""),
        "empty.jpg": (b"", "empty"),
        "cut.png": (png[: len(png) // 2], "damaged"),
        "bomb.png": (bomb + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "too large"),
        "tiny.png": (_tiny(), "9×9"),
        "photo.heic": (b"\0\0\0\x18ftypheic", "heif-convert"),
        "photo.CR2": (b"II*\0", "raw"),
    }


def _tiny() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def test_broken_files_among_good_ones_are_reported(tmp_path: Path) -> None:
    good_pair(tmp_path)
    for name, (data, _) in broken_files().items():
        (tmp_path / name).write_bytes(data)
    prepared = prepare(tmp_path, tmp_path / "out")
    assert [photo.name for photo in prepared.photos] == ["good0.jpg", "good1.jpg"]
    reasons = {file.name: file.reason for file in prepared.skipped}
    assert set(reasons) == set(broken_files())
    for name, (_, message) in broken_files().items():
        assert message in reasons[name], (name, reasons[name])
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_too_few_photos_are_an_error(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "only.jpg")
    with pytest.raises(ReconError, match="only one photo") as caught:
        prepare(tmp_path, tmp_path / "out")
    assert caught.value.fix
    (tmp_path / "only.jpg").write_text("not a photo")
    with pytest.raises(ReconError, match=r"no photo can be used .*only\.jpg: it is not a picture"):
        prepare(tmp_path, tmp_path / "out")


def test_copies_are_left_out(tmp_path: Path) -> None:
    good_pair(tmp_path)
    (tmp_path / "good0 (copy).jpg").write_bytes((tmp_path / "good0.jpg").read_bytes())
    prepared = prepare(tmp_path, tmp_path / "out")
    assert len(prepared.photos) == 2
    assert "same file" in prepared.skipped[0].reason


def test_finding_passes_over_what_is_no_photo(tmp_path: Path) -> None:
    for name in (
        "b/2.jpg",
        "b/10.jpg",
        "a.jpg",
        "masks/a.png",
        ".hidden/x.jpg",
        "._a.jpg",
        "out/images/z.jpg",
        "n.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [photo.name for photo in find_photos(tmp_path, leave_out=tmp_path / "out")]
    assert names == ["a.jpg", "b/2.jpg", "b/10.jpg"]
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b").rename(tmp_path / "images")
    assert [photo.name for photo in find_photos(tmp_path, tmp_path / "out")] == ["2.jpg", "10.jpg"]


def test_natural_order_never_compares_words_with_numbers() -> None:
    names = ["10", "9", "a10", "a9", "9a", "²", "", "a", "٣"]
    assert sorted(names, key=natural_key)[:2] == ["", "9"]


class TestCameras:
    def save(self, folder: Path, name: str, size: tuple[int, int] = (WIDTH, HEIGHT), **tags) -> None:
        shade = len(list(folder.iterdir()))
        Image.new("RGB", size, (shade, 2 * shade, 9)).save(folder / name, exif=exif_of(**tags))

    def test_focal_length_from_the_35_mm_equivalent(self, tmp_path: Path) -> None:
        for index in range(2):
            self.save(tmp_path, f"{index}.jpg", x010F="Maker", x0110="Phone", x920A=IFDRational(43, 10), xA405=35)
        (camera,) = prepare(tmp_path, tmp_path / "out").cameras
        assert camera.focal_px == pytest.approx(35 * np.hypot(WIDTH, HEIGHT) / np.hypot(36, 24))
        assert (camera.width, camera.height, camera.params) == (WIDTH, HEIGHT, ())

    def test_focal_length_from_the_focal_plane(self, tmp_path: Path) -> None:
        for index in range(2):  # 24 mm on a sensor 36 mm wide: 2/3 of the width, whatever the unit.
            resolution = WIDTH / 36 * (25.4 if index else 10)
            self.save(
                tmp_path,
                f"{index}.jpg",
                x920A=IFDRational(24),
                xA20E=IFDRational(Fraction(resolution).limit_denominator(100000)),
                xA210=2 if index else 3,
                xA002=WIDTH,
            )
        (camera,) = prepare(tmp_path, tmp_path / "out").cameras
        assert camera.focal_px == pytest.approx(WIDTH * 24 / 36, rel=1e-3)

    def test_cameras_lenses_and_sizes_are_told_apart(self, tmp_path: Path) -> None:
        self.save(tmp_path, "0.jpg", x0110="A", x920A=IFDRational(24))
        self.save(tmp_path, "1.jpg", x0110="A", x920A=IFDRational(24))
        self.save(tmp_path, "2.jpg", x0110="A", x920A=IFDRational(50))
        self.save(tmp_path, "3.jpg", x0110="B", x920A=IFDRational(24))
        self.save(tmp_path, "4.jpg", (HEIGHT, WIDTH), x0110="A", x920A=IFDRational(24))
        cameras = [photo.camera for photo in prepare(tmp_path, tmp_path / "out").photos]
        assert cameras == [0, 0, 1, 2, 3]
        cameras = [photo.camera for photo in prepare(tmp_path, tmp_path / "one", grouping="single").photos]
        assert cameras == [0, 0, 0, 0, 1]
        cameras = [photo.camera for photo in prepare(tmp_path, tmp_path / "all", grouping="per-image").photos]
        assert cameras == [0, 1, 2, 3, 4]

    def test_absurd_exif_counts_as_none(self, tmp_path: Path) -> None:
        self.save(tmp_path, "0.jpg", x0110="\0\xff" * 9, x920A=IFDRational(0, 0), xA405=65000, x0112=77)
        self.save(tmp_path, "1.jpg", x0110="\0\xff" * 9, xA20E=IFDRational(1, 0), x9003="not a date")
        data = bytearray((tmp_path / "1.jpg").read_bytes())
        data[30:60] = os.urandom(30)
        (tmp_path / "2.jpg").write_bytes(bytes(data))
        prepared = prepare(tmp_path, tmp_path / "out")
        assert all(camera.focal_px is None for camera in prepared.cameras)

    def test_times_and_exposures_are_relative(self, tmp_path: Path) -> None:
        for index in range(2):
            self.save(
                tmp_path,
                f"{index}.jpg",
                x9003=f"2024:05:01 10:00:0{index}",
                x9291="50",
                x829A=IFDRational(1, 100 * 4**index),
                x8827=100,
            )
        first, second = prepare(tmp_path, tmp_path / "out").photos
        assert (first.time_s, second.time_s) == (0.0, 1.0)
        assert (first.exposure_log2, second.exposure_log2) == pytest.approx((1.0, -1.0))

    def test_lund_has_one_camera_with_a_focal_length(self, captures: Path, tmp_path: Path) -> None:
        prepared = prepare(captures / "lund" / "images", tmp_path / "out")
        assert len(prepared.photos) == 29
        assert len(prepared.cameras) == 1
        assert 0.7 < prepared.cameras[0].focal_px / 1024 < 1.2


class TestCalibration:
    def test_our_json(self, tmp_path: Path) -> None:
        path = tmp_path / "c.json"
        path.write_text(
            '{"model": "OPENCV", "width": 192, "height": 128, "fx": 200, "fy": 202, "cx": 90, "cy": 66,'
            ' "distortion": [0.1, 0, 0, 0.01]}'
        )
        prior = read_calibration(path).prior_for(WIDTH, HEIGHT)
        assert prior is not None
        assert prior.is_calibrated
        assert prior.model == "OPENCV"
        assert prior.params == (100, 101, 45, 33, 0.1, 0, 0, 0.01)
        assert read_calibration(path).prior_for(HEIGHT, WIDTH) is None

    def test_herzjesus_matrix(self, captures: Path) -> None:
        prior = read_calibration(captures / "herzjesu_P8_half" / "K_half.txt").prior_for(1536, 1024)
        assert prior is not None
        assert prior.model == "PINHOLE"
        assert prior.params == (1379.74, 1382.08, 760.095, 503.155)

    def test_cameras_txt_by_size(self, tmp_path: Path) -> None:
        path = tmp_path / "cameras.txt"
        path.write_text("# x\n1 PINHOLE 64 96 50 50 32 48\n2 SIMPLE_RADIAL 96 64 80 48 32 0.1\n")
        prior = read_calibration(path).prior_for(WIDTH, HEIGHT)
        assert prior is not None
        assert prior.params == (80, 80, 48, 32, 0.1, 0, 0, 0)

    def test_it_is_used_or_refused(self, tmp_path: Path) -> None:
        good_pair(tmp_path)
        (tmp_path / "k.txt").write_text("90 0 47\n0 91 33\n0 0 1\n")
        (camera,) = prepare(tmp_path, tmp_path / "out", calibration=read_calibration(tmp_path / "k.txt")).cameras
        assert camera.params == (90, 91, 47, 33)
        (tmp_path / "k.txt").write_text("90 0 470\n0 91 33\n0 0 1\n")
        with pytest.raises(ReconError, match="outside"):
            prepare(tmp_path, tmp_path / "out", calibration=read_calibration(tmp_path / "k.txt"))
        (tmp_path / "k.json").write_text('{"width": 50, "height": 50, "fx": 40}')
        with pytest.raises(ReconError, match="96×64"):
            prepare(tmp_path, tmp_path / "out", calibration=read_calibration(tmp_path / "k.json"))

    @pytest.mark.parametrize(
        "text",
        ["", "hello", "{", '{"fx": 1}', '{"width": 9, "height": 9, "fx": -4}',
         '{"width": 9, "height": 9, "fx": 4, "q": 1}', "-1 0 5 0 1 5 0 0 1", "1 2 3 4",
         "1 0 0 0 1 0 0 0 5", "nan 0 1 0 1 1 0 0 1", "1 FOV 9 9 1 1 1 1 1", "[1]", "{" * 99999],
    )  # fmt: skip
    def test_nonsense_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "c"
        path.write_text(text)
        with pytest.raises(ReconError, match="calibration"):
            read_calibration(path)


class TestMasks:
    @pytest.mark.parametrize("name", ["good0.jpg.png", "good0.png", "good0.jpg"])
    def test_found_by_each_naming(self, tmp_path: Path, name: str) -> None:
        good_pair(tmp_path)
        (tmp_path / "masks").mkdir()
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, : WIDTH // 2] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / name, quality=100)
        prepared = prepare(tmp_path, tmp_path / "out", masks=MaskFolder(tmp_path / "masks"))
        assert [photo.masked for photo in prepared.photos] == [True, False]
        written = read_mask(tmp_path / "out" / "masks" / "good0.jpg.png")
        assert (written[:, : WIDTH // 2 - 8] == 255).all()
        assert prepared.sfm_input(tmp_path / "out").masks_dir == tmp_path / "out" / "masks"

    def test_turned_and_scaled_with_the_photo(self, tmp_path: Path) -> None:
        (tmp_path / "masks").mkdir()
        stored_mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        stored_mask[:10] = 1  # The top as stored; turned clockwise it is on the right.
        for index in range(2):
            Image.fromarray(gradient(index)).save(tmp_path / f"{index}.jpg", exif=exif_of(x0112=6))
        Image.fromarray(stored_mask).save(tmp_path / "masks" / "0.png")
        Image.fromarray(np.full((2 * WIDTH, 2 * HEIGHT), 255, np.uint8)).save(tmp_path / "masks" / "1.png")
        prepare(tmp_path, tmp_path / "out", masks=MaskFolder(tmp_path / "masks"))
        mask = read_mask(tmp_path / "out" / "masks" / "0.jpg.png")
        assert mask.shape == (WIDTH, HEIGHT)
        assert (mask[:, -10:] == 255).all()
        assert (mask[:, :-10] == 0).all()
        assert read_mask(tmp_path / "out" / "masks" / "1.jpg.png").shape == (WIDTH, HEIGHT)

    def test_alpha_becomes_a_mask(self, tmp_path: Path) -> None:
        for index in range(2):
            rgba = np.dstack([gradient(index), np.full((HEIGHT, WIDTH), 255, np.uint8)])
            rgba[:20, :, 3] = 0 if index == 0 else 255
            Image.fromarray(rgba).save(tmp_path / f"{index}.png")
        prepared = prepare(tmp_path, tmp_path / "out")
        assert [photo.masked for photo in prepared.photos] == [True, False]
        mask = read_mask(tmp_path / "out" / "masks" / "0.png.png")
        assert (mask[:20] == 0).all()
        assert (mask[20:] == 255).all()

    def test_what_does_not_fit_is_said(self, tmp_path: Path) -> None:
        good_pair(tmp_path)
        (tmp_path / "masks").mkdir()
        with pytest.raises(ReconError, match="no mask belongs"):
            prepare(tmp_path, tmp_path / "out", masks=MaskFolder(tmp_path / "masks"))
        Image.new("L", (50, 50)).save(tmp_path / "masks" / "good1.png")
        with pytest.raises(ReconError, match="50×50"):
            prepare(tmp_path, tmp_path / "out", masks=MaskFolder(tmp_path / "masks"))
        with pytest.raises(ReconError, match="no such folder"):
            MaskFolder(tmp_path / "nowhere")

    def test_judos_masks_fit(self, captures: Path, tmp_path: Path) -> None:
        judo = captures / "people" / "judo"
        prepared = prepare(judo / "images", tmp_path / "out", masks=MaskFolder(judo / "masks"))
        assert sum(photo.masked for photo in prepared.photos) == 4


def test_prepared_comes_back(tmp_path: Path) -> None:
    good_pair(tmp_path)
    (tmp_path / "k.txt").write_text("90 0 47\n0 91 33\n0 0 1\n")
    prepared = prepare(tmp_path, tmp_path / "out", calibration=read_calibration(tmp_path / "k.txt"))
    path = tmp_path / "prepared.json"
    save_prepared(path, "key", prepared)
    assert load_prepared(path) == ("key", prepared)
    path.write_text(path.read_text()[:-20])
    assert load_prepared(path) is None
    assert load_prepared(tmp_path / "none.json") is None
