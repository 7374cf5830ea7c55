# SPDX-License-Identifier: Apache-2.0
"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018).

d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lc − ŷ_lc)², with the features of layer l of AlexNet or VGG-16, normalised to unit
length over channels, and learned weights w_l (version 0.1, "lin").  Only the arithmetic is here: the weights are other
people's, come in one safetensors file that the user makes once, and are never fetched.  The file holds the tensors of
the reference package under its own names, so one line converts them (`HOW_TO_GET`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

from recon.errors import ReconError

Network = Literal["alex", "vgg"]

HOW_TO_GET = (
    "LPIPS needs its weights in one file. In any environment with the package lpips (pip install lpips safetensors) "
    'run: python -c "import lpips, safetensors.torch as s; '
    "s.save_file({k: v.clone() for k, v in lpips.LPIPS(net='alex').state_dict().items() if not k.startswith('lins.')}, "
    "'lpips_alex.safetensors')\" and set RECON_LPIPS_WEIGHTS to the file, or put it into "
    "~/.cache/recon/lpips_alex.safetensors (for net='vgg': lpips_vgg.safetensors)."
)

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
# Per slice: (index of the convolution in the network, stride, padding); "pool" halves before the slice.
_ALEX: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((0, 4, 2),),
    ((3, 1, 2),),
    ((6, 1, 1),),
    ((8, 1, 1),),
    ((10, 1, 1),),
)
_ALEX_POOLED = (1, 2)
_VGG: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((0, 1, 1), (2, 1, 1)),
    ((5, 1, 1), (7, 1, 1)),
    ((10, 1, 1), (12, 1, 1), (14, 1, 1)),
    ((17, 1, 1), (19, 1, 1), (21, 1, 1)),
    ((24, 1, 1), (26, 1, 1), (28, 1, 1)),
)
_VGG_POOLED = (1, 2, 3, 4)


class Lpips:
    """The metric with its weights in memory; `network` says which of the two it is."""

    def __init__(self, tensors: dict[str, torch.Tensor], network: Network) -> None:
        self.network = network
        self._tensors = tensors
        self._slices = _ALEX if network == "alex" else _VGG
        self._pooled = _ALEX_POOLED if network == "alex" else _VGG_POOLED

    def to(self, device: torch.device | str) -> Lpips:
        """Returns the metric on another device."""
        return Lpips({name: tensor.to(device) for name, tensor in self._tensors.items()}, self.network)

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, target: torch.Tensor) -> float:
        """Returns the distance of two pictures [H, W, 3] in 0..1, at least 32 pixels on each side; 0 when equal."""
        if image.shape != target.shape or image.ndim != 3 or min(image.shape[:2]) < 32:
            raise ReconError(
                "computing LPIPS",
                f"the pictures have shapes {tuple(image.shape)} and {tuple(target.shape)}",
                "one H×W×3 shape of at least 32×32",
            )
        pair = torch.stack([image, target]).permute(0, 3, 1, 2).float() * 2 - 1
        shift = torch.tensor(_SHIFT, device=pair.device).reshape(1, 3, 1, 1)
        scale = torch.tensor(_SCALE, device=pair.device).reshape(1, 3, 1, 1)
        features = (pair - shift) / scale
        distance = 0.0
        for layer in range(len(self._slices)):
            features = self._slice(features, layer)
            unit = features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
            weight = self._tensors[f"lin{layer}.model.1.weight"]
            distance += float(functional.conv2d((unit[:1] - unit[1:]).square(), weight).mean())
        return distance

    def _slice(self, features: torch.Tensor, layer: int) -> torch.Tensor:
        if layer in self._pooled:
            features = functional.max_pool2d(features, 3 if self.network == "alex" else 2, 2)
        for index, stride, padding in self._slices[layer]:
            prefix = f"net.slice{layer + 1}.{index}"
            features = functional.relu(
                functional.conv2d(
                    features, self._tensors[f"{prefix}.weight"], self._tensors[f"{prefix}.bias"], stride, padding
                )
            )
        return features


def find_weights() -> Path | None:
    """Returns the weights' file: `RECON_LPIPS_WEIGHTS`, else one in the cache folder, else None.

    Raises:
        ReconError: `RECON_LPIPS_WEIGHTS` names a file that is not there.
    """
    named = os.environ.get("RECON_LPIPS_WEIGHTS", "")
    if named:
        if not Path(named).is_file():
            raise ReconError("looking for the weights of LPIPS", f"there is no file {named}", fix=HOW_TO_GET)
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "recon"
    for network in ("alex", "vgg"):
        if (path := cache / f"lpips_{network}.safetensors").is_file():
            return path
    return None


def load_lpips(path: Path) -> Lpips:
    """Reads the weights; the network is told from the tensors that the file holds.

    Raises:
        ReconError: not a safetensors file, or not these weights.
    """
    from recon.files import read_arrays

    tensors = {name: torch.from_numpy(array).float() for name, array in read_arrays(path).items()}
    network: Network = "vgg" if "net.slice1.2.weight" in tensors else "alex"
    slices = _ALEX if network == "alex" else _VGG
    channels = 3
    for layer, convolutions in enumerate(slices):
        for index, _, _ in convolutions:
            name = f"net.slice{layer + 1}.{index}"
            weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
            if weight is None or bias is None or weight.ndim != 4 or weight.shape[1] != channels:
                raise ReconError(f"reading the weights of LPIPS from {path}", f"{name} is missing or has another shape",
                                 f"a convolution of {channels} channels", HOW_TO_GET)  # fmt: skip
            channels = int(weight.shape[0])
        linear = tensors.get(f"lin{layer}.model.1.weight")
        if linear is None or tuple(linear.shape) != (1, channels, 1, 1):
            raise ReconError(f"reading the weights of LPIPS from {path}", f"lin{layer} is missing or has another shape",
                             f"1×{channels}×1×1", HOW_TO_GET)  # fmt: skip
    return Lpips(tensors, network)
