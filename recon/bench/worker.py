# SPDX-License-Identifier: Apache-2.0
"""Measurements in a process of their own: for another instruction set, or for the memory that only a fresh one shows.

`python -m recon.bench.worker NAME` reads the settings as JSON from standard input and prints the result as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from recon.errors import ReconError
from recon.kernels.environment import TUNING

TASKS = ("kernels", "scaling")


def call_worker(task: str, settings: Mapping[str, Any], environment: Mapping[str, str] = {}) -> Any:
    """Runs a task in a fresh process and returns what it found.

    Args:
        task: one of `TASKS`.
        settings: JSON values.
        environment: variables to set for it.

    Raises:
        ReconError: it failed; says why.
    """
    assert task in TASKS
    # -P: the same recon as in this process, not one whose sources lie in the working directory.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "recon.bench.worker", task],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        env={**TUNING, **os.environ, **environment},
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode == 0 and isinstance(answer, dict) and "result" in answer:
        return answer["result"]
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        raise ReconError(**answer["error"])
    doing = f"measuring {task} in a process of its own"
    if done.returncode in (-9, 137):
        raise ReconError(doing, "the system ended it, most likely for lack of memory", "", "measure smaller sizes")
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise ReconError(doing, f"it ended with {done.returncode}: {last}")


def main() -> int:
    """Runs the task that the command line names."""
    task, settings = sys.argv[1], json.load(sys.stdin)
    try:
        if task == "kernels":
            from recon.bench.kernels import from_document, sample_kernels

            result: Any = sample_kernels(from_document(settings))
        else:
            from recon.bench.scaling import sample_point

            result = sample_point(settings)
    except ReconError as error:
        print(json.dumps({"error": error.to_json()}))
        return 2
    print(json.dumps({"result": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
