# SPDX-License-Identifier: Apache-2.0
"""Synthetic captures with exact ground truth, made on the spot: `make_capture`, `load_capture`, `sparse_points`."""

from recon.data.capture import SyntheticCapture, load_capture, make_capture
from recon.data.config import CaptureConfig
from recon.data.truth import sparse_points

__all__ = ["CaptureConfig", "SyntheticCapture", "load_capture", "make_capture", "sparse_points"]
