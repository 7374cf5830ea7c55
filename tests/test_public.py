# SPDX-License-Identifier: Apache-2.0
"""What `import recon` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import recon


@pytest.mark.parametrize("name", [name for name in recon.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(recon, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fly"):
        _ = recon.fly


def test_importing_recon_imports_nothing_heavy() -> None:
    program = "import sys, recon; print([m for m in ('torch', 'numpy', 'pycolmap', 'viser') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
