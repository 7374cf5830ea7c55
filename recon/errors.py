# SPDX-License-Identifier: Apache-2.0
"""The one error that user input can raise.

A message has up to four parts, in this order: what was being done, what was found, what was expected and how
to fix it.  The command line prints it in a few lines and exits with code 2; Python users catch it.
"""

from __future__ import annotations


class ReconError(Exception):
    """Something the user gave, or the machine lacks, keeps an operation from being done.

    Args:
        doing: the operation, as a phrase ("reading the splat file scene.ply").
        found: what is wrong, with the offending value ("the header promises 10 vertices, the file holds 7").
        expected: what would have been accepted; empty where it is obvious.
        fix: what the user can do about it; empty where nothing helps.
    """

    def __init__(self, doing: str, found: str, expected: str = "", fix: str = "") -> None:
        self.doing = doing
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"While {self.doing}: {self.found}"]
        if self.expected:
            lines.append(f"Expected: {self.expected}")
        if self.fix:
            lines.append(f"To fix it: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return (type(self), (self.doing, self.found, self.expected, self.fix))

    def to_json(self) -> dict[str, str]:
        """Returns the parts as a JSON object, for `--json`."""
        return {"doing": self.doing, "found": self.found, "expected": self.expected, "fix": self.fix}
