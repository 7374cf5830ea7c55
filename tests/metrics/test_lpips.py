# SPDX-License-Identifier: Apache-2.0
"""LPIPS with made-up weights: the arithmetic against an independent one, and every way its file can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recon.errors import ReconError
from recon.files import write_arrays
from recon.metrics.lpips import HOW_TO_GET, find_weights, load_lpips

# The feature extractors as their papers and torchvision lay them out: convolution (in, out, kernel, stride, padding),
# R for a ReLU, M for a pooling layer.  LPIPS taps the networks after the ReLUs at these positions.
ALEX = [(3, 64, 11, 4, 2), "R", "M", (64, 192, 5, 1, 2), "R", "M", (192, 384, 3, 1, 1), "R", (384, 256, 3, 1, 1), "R",
        (256, 256, 3, 1, 1), "R"]  # fmt: skip
ALEX_ENDS = [2, 5, 8, 10, 12]
VGG: list[object] = []
for count, channels_in, channels_out in ((2, 3, 64), (2, 64, 128), (3, 128, 256), (3, 256, 512), (3, 512, 512)):
    for i in range(count):
        VGG += [(channels_in if i == 0 else channels_out, channels_out, 3, 1, 1), "R"]
    VGG.append("M")
VGG_ENDS = [4, 9, 16, 23, 30]


def network(kind: str) -> tuple[nn.Sequential, list[int]]:
    layers: list[nn.Module] = []
    for spec in ALEX if kind == "alex" else VGG:
        if spec == "R":
            layers.append(nn.ReLU())
        elif spec == "M":
            layers.append(nn.MaxPool2d(3, 2) if kind == "alex" else nn.MaxPool2d(2, 2))
        else:
            layers.append(nn.Conv2d(spec[0], spec[1], spec[2], spec[3], spec[4]))  # type: ignore[index]
    return nn.Sequential(*layers), ALEX_ENDS if kind == "alex" else VGG_ENDS


def write_weights(kind: str, path: Path) -> tuple[nn.Sequential, list[int], list[torch.Tensor]]:
    torch.manual_seed(7)
    features, ends = network(kind)
    arrays, linear, start = {}, [], 0
    for layer, end in enumerate(ends):
        for index in range(start, end):
            if isinstance(features[index], nn.Conv2d):
                for name, tensor in features[index].state_dict().items():
                    arrays[f"net.slice{layer + 1}.{index}.{name}"] = tensor.numpy()
                    width = features[index].out_channels
        linear.append(torch.rand(width))
        arrays[f"lin{layer}.model.1.weight"] = linear[-1].reshape(1, -1, 1, 1).numpy()
        start = end
    arrays["scaling_layer.shift"] = np.zeros((1, 3, 1, 1), np.float32)
    write_arrays(path, arrays)
    return features, ends, linear


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_the_arithmetic_is_that_of_the_paper(tmp_path: Path, kind: str) -> None:
    features, ends, linear = write_weights(kind, tmp_path / "weights.safetensors")
    metric = load_lpips(tmp_path / "weights.safetensors")
    assert metric.network == kind
    x, y = torch.rand(48, 64, 3), torch.rand(48, 64, 3)
    expected = 0.0
    taps = []
    for picture in (x, y):
        z = picture.permute(2, 0, 1)[None] * 2 - 1
        z = (z - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[
            :, None, None
        ]
        tapped = []
        with torch.no_grad():
            for index, layer in enumerate(features, 1):
                z = layer(z)
                if index in ends:
                    tapped.append(nn.functional.normalize(z, dim=1))
        taps.append(tapped)
    for a, b, weight in zip(*taps, linear):
        expected += float(((a - b) ** 2 * weight[:, None, None]).sum(1).mean())
    assert metric(x, y) == pytest.approx(expected, rel=1e-4)
    assert metric(x, x) == 0


def test_pictures_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_weights("alex", tmp_path / "w.safetensors")
    metric = load_lpips(tmp_path / "w.safetensors")
    with pytest.raises(ReconError, match="LPIPS"):
        metric(torch.rand(16, 64, 3), torch.rand(16, 64, 3))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ReconError, match="safetensors"):
        load_lpips(path)
    write_arrays(path, {"something": np.zeros(3, np.float32)})
    with pytest.raises(ReconError, match="missing"):
        load_lpips(path)


def test_where_weights_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECON_LPIPS_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_weights() is None
    cached = tmp_path / "recon" / "lpips_vgg.safetensors"
    cached.parent.mkdir()
    cached.write_bytes(b"")
    assert find_weights() == cached
    monkeypatch.setenv("RECON_LPIPS_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(ReconError, match="no file"):
        find_weights()
    assert "RECON_LPIPS_WEIGHTS" in HOW_TO_GET
