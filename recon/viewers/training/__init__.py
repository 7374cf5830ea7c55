# SPDX-License-Identifier: Apache-2.0
"""Training, live in the browser."""
