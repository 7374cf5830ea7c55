# SPDX-License-Identifier: Apache-2.0
"""Scores of pictures: PSNR, SSIM and LPIPS, each over all pixels or over those that a mask keeps."""
