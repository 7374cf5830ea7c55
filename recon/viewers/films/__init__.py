# SPDX-License-Identifier: Apache-2.0
"""The tab Film: keyframes, their preview, and films rendered beside the run."""
