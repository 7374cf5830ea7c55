# SPDX-License-Identifier: Apache-2.0
"""What a slider asks for is done once, when it rests, and not at all once something else was done."""

from __future__ import annotations

import threading
import time

from recon.viewers.later import Later


def test_many_wishes_are_one_action() -> None:
    done: list[int] = []
    finished = threading.Event()

    def action() -> None:
        done.append(1)
        finished.set()

    later = Later(action, 0.05)
    for _ in range(20):
        later.ask()
    assert finished.wait(10)
    time.sleep(0.1)
    assert done == [1]
    later.close()


def test_what_is_forgotten_is_not_done_and_the_next_wish_is() -> None:
    finished = threading.Event()
    later = Later(finished.set, 0.05)
    later.ask()
    later.forget()
    assert not finished.wait(0.2)
    later.ask()
    assert finished.wait(10)
    finished.clear()
    later.ask()
    later.close()
    later.ask()
    assert not finished.wait(0.2)
