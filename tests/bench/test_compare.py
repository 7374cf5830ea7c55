# SPDX-License-Identifier: Apache-2.0
"""Comparing results: what is noise, what is not, and files that are no results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recon.bench.compare import compare
from recon.bench.machine import Machine
from recon.bench.results import Entry, Report, parse_counts, parse_numbers, parse_size, read_report, short_seconds
from recon.cli.main import main
from recon.errors import ReconError

MACHINE = Machine("Some CPU @ 3 GHz", 2, 8.0, "avx2", 2, "Linux x86_64", "", {"recon": "0"}, "abc", "2026-01-01")


def report(*entries: Entry, **changes: Any) -> Report:
    return replace(Report("kernels", "recon bench kernels", {"repeats": 5}, MACHINE, entries), **changes)


def times(name: str, *seconds: float) -> Entry:
    return Entry.of(name, seconds)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.01, 1.02, 1.03], [1.3, 1.31, 1.32, 1.33], "worse"),
        ([1.3, 1.31, 1.32, 1.33], [1.0, 1.01, 1.02, 1.03], "better"),
        ([1.0, 1.01, 1.02, 1.03], [1.01, 1.02, 1.03, 1.04], "same"),
        ([1.0, 1.3, 1.6, 1.9], [1.1, 1.5, 1.9, 2.2], "same"),
        # A busy machine: the median is worse, the best sample is not.
        ([1.0, 1.01, 1.02, 1.03], [1.0, 2.0, 2.0, 2.0], "same"),
        ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], "unknown"),
    ],
)
def test_a_difference_counts_beyond_the_noise(before: list[float], after: list[float], verdict: str) -> None:
    found = compare(report(times("a", *before)), report(times("a", *after)))
    assert found.changes[0].verdict == verdict
    assert bool(found.worse) == (verdict == "worse")


def test_more_can_be_better() -> None:
    rates = [Entry.of("r", [rate] * 5, unit="pictures/s", better="higher") for rate in (10.0, 20.0)]
    change = compare(report(rates[0]), report(rates[1])).changes[0]
    assert (change.verdict, change.ratio) == ("better", 2.0)
    scores = [Entry.of("p", [score] * 5, unit="dB", better="higher") for score in (30.0, 29.5)]
    assert compare(report(scores[0]), report(scores[1])).changes[0].verdict == "worse"


def test_other_machines_and_settings_are_told_and_others_entries_named() -> None:
    other = report(times("a", 1.0), times("c", 1.0), machine=replace(MACHINE, cpu="Other", date="2027-01-01"),
                   settings={"repeats": 9})  # fmt: skip
    found = compare(report(times("a", 1.0), times("b", 1.0)), other)
    assert (found.only_before, found.only_after) == (("b",), ("c",))
    assert any("Other" in warning for warning in found.warnings)
    assert any("repeats" in warning for warning in found.warnings)
    assert len(found.warnings) == 2


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ReconError, match="scaling"):
        compare(report(times("a", 1.0)), report(times("a", 1.0), kind="scaling"))
    with pytest.raises(ReconError, match="no entry in common"):
        compare(report(times("a", 1.0)), report(times("b", 1.0)))
    with pytest.raises(ReconError, match="in s there"):
        compare(report(times("a", 1.0)), report(Entry.of("a", [1.0], unit="B")))


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    given = report(Entry.of("a", [1.0, 2.0, 4.0], facts={"stage": "loss", "n": 3}), more={"notes": []})
    given.write(tmp_path / "a.json")
    assert read_report(tmp_path / "a.json") == given


ENTRY = {**vars(times("a", 1.0, 2.0)), "facts": {}}
GOOD = {"schema": 1, **report().to_json(), "entries": [ENTRY]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "nonsense",
        json.dumps({**GOOD, "schema": 2}),
        json.dumps({**GOOD, "kind": "speed"}),
        json.dumps({**GOOD, "surprise": 1}),
        json.dumps({key: value for key, value in GOOD.items() if key != "machine"}),
        json.dumps({**GOOD, "machine": 3}),
        json.dumps({**GOOD, "machine": {**GOOD["machine"], "cpu": ["x"]}}),
        json.dumps({**GOOD, "entries": {}}),
        json.dumps({**GOOD, "entries": [{**ENTRY, "median": "1"}]}),
        json.dumps({**GOOD, "entries": [{**ENTRY, "median": None}]}),
        json.dumps({**GOOD, "entries": [{**ENTRY, "median": True}]}),
        json.dumps({**GOOD, "entries": [{**ENTRY, "better": "sideways"}]}),
        json.dumps({**GOOD, "entries": [{**ENTRY, "facts": 1}]}),
        json.dumps({**GOOD, "entries": [None]}),
        json.dumps({**GOOD, "settings": 7}),
        "[" * 100_000,
    ],
)
def test_files_that_are_no_results_are_bad_input(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(GOOD))
    bad.write_text(content)
    for pair in ([good, bad], [bad, good]):
        assert main(["bench", "compare", *map(str, pair), "--json"]) == 2
        printed = capsys.readouterr()
        assert "bad.json" in json.loads(printed.out)["error"]["doing"]
        assert "Traceback" not in printed.err


def test_the_command_exits_with_three_when_something_became_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(times("fine", 1, 1, 1, 1), times("slow [x]", 1, 1, 1, 1)).write(tmp_path / "a.json")
    report(times("fine", 1, 1, 1, 1), times("slow [x]", 2, 2, 2, 2)).write(tmp_path / "b.json")
    words = ["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(words) == 3
    printed = capsys.readouterr()
    assert "slow [x]" in printed.out
    assert "1 of 2 entries became worse" in printed.err
    assert main([*words, "--json"]) == 3
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [change["verdict"] for change in changes] == ["same", "worse"]
    assert main([*words[:2], words[2], words[2]]) == 0


def test_lists_on_the_command_line() -> None:
    assert parse_counts("10k, 1.5m,300", "x") == [10_000, 1_500_000, 300]
    assert parse_numbers("26.0,29", "x") == [26.0, 29.0]
    assert parse_size("1920x1080", "x") == (1920, 1080)
    for bad in ("", "0", "-5", "k", "1e400", "nan", "10q"):
        with pytest.raises(ReconError):
            parse_counts(bad, "x")
    for bad in ("", "0", "nan", "inf", "a"):
        with pytest.raises(ReconError):
            parse_numbers(bad, "x")
    for bad in ("", "10", "0x5", "10x10x10", "ax5", "1000000x5"):
        with pytest.raises(ReconError):
            parse_size(bad, "x")


def test_times_are_said_with_three_figures() -> None:
    assert [short_seconds(s) for s in (2.5, 0.0123, 4.2e-6, 3e-8)] == ["2.50 s", "12.3 ms", "4.20 µs", "30 ns"]


def test_a_machine_is_named_by_its_kind() -> None:
    assert MACHINE.slug == "some-2-cores-avx2"
    assert replace(MACHINE, cpu="Intel(R) Xeon(R) Processor").slug == "intel-xeon-2-cores-avx2"
