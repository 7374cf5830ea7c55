# SPDX-License-Identifier: Apache-2.0
"""Measurements of recon on the machine at hand: kernels, training to a quality, scaling, rendering.

Every result is a `recon.bench.results.Report`: what was measured, on which machine, by which command, and entries with
a median and a spread, so that `recon.bench.compare` can set any two of a kind side by side.  Times are wall times of
the median run unless an entry says that they are processor seconds.
"""
