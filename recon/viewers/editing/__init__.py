# SPDX-License-Identifier: Apache-2.0
"""Changing and measuring what is seen: the tabs Edit and Measure, and the tools of the pointer."""
