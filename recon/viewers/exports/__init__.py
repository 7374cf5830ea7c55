# SPDX-License-Identifier: Apache-2.0
"""The tab Export: splats, meshes, points, pictures and pages, made in the background and downloaded."""
