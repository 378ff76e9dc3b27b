"""Order, time, and what goes on after what."""

from __future__ import annotations

import contextlib

from benchmarks.gpu_check.schedule import Finding, Phase, Schedule
from tests.benchmarks.gpu_check.conftest import environment, task


def run(phases: list[Phase], seconds: float = 60.0) -> Schedule:
    """Return the schedule after its phases."""
    schedule = Schedule(environment(), seconds, lambda findings: None)
    schedule.run(phases)
    return schedule


def names(schedule: Schedule) -> list[str]:
    """Return the phases in the order of their ends."""
    return [finding.phase for finding in schedule.findings]


def test_phases_run_in_order_and_results_of_all_processes_are_joined() -> None:
    schedule = run(
        [Phase("first", [task("a", "one"), task("b", "two")], 30), Phase("second", [task("c", "three")], 30)]
    )
    assert names(schedule) == ["first", "second"]
    assert schedule.findings[0].results == {"one": "", "two": ""}


def test_later_phases_know_the_facts() -> None:
    schedule = run([Phase("first", [task("a", "facts 1")], 30), Phase("second", [task("b", "facts 2")], 30)])
    assert schedule.facts["facts 2"] == {"facts 1": {}}


def test_a_phase_that_overruns_is_stopped_and_the_next_one_runs() -> None:
    endless = Phase("endless", [task("a", "one", "hang")], 1, grace=0)
    schedule = run([endless, Phase("next", [task("b", "two")], 30)])
    first, second = schedule.findings
    assert (first.stopped, second.results) == (1, {"two": ""})
    assert "1 processes stopped for want of time" in first.text


def test_baselines_run_beside_what_measures_no_times() -> None:
    baselines = Phase("baselines", [task("a", "hang")], 3, beside=True, grace=0)
    phases = [
        Phase("ceilings", [task("b", "one")], 30, quiet=True),
        baselines,
        Phase("checks", [task("c", "two")], 30),
        Phase("networks", [task("d", "three")], 30, quiet=True),
        Phase("precisions", [task("e", "four")], 1),
        Phase("configurations", [task("f", "five")], 30),
    ]
    schedule = run(phases)
    # Precisions fit beside the baselines, configurations do not; the networks wait until the baselines have ended.
    assert names(schedule) == ["ceilings", "checks", "precisions", "baselines", "networks", "configurations"]
    assert {finding.phase: finding.stopped for finding in schedule.findings}["baselines"] == 1


def test_processes_wait_for_their_turn() -> None:
    tasks = [task(str(n), f"unit {n}") for n in range(3)]
    schedule = run([Phase("baselines", tasks, 30, beside=True, at_once=1)])
    assert list(schedule.findings[0].results) == ["unit 0", "unit 1", "unit 2"]


def test_what_there_is_no_time_for_is_said() -> None:
    schedule = run([Phase("late", [task("a", "one"), task("b", "two")], 30)], seconds=0)
    assert schedule.findings == [Finding("late", left=2)]


def test_an_interrupt_keeps_what_was_found_and_leaves_no_process() -> None:
    reported: list[Finding] = []

    class Interrupted(Schedule):
        def _wait(self, until_idle: bool, all_of_them: bool = False) -> None:
            for group in self._running:
                while not group.finding().results:
                    group.advance()
            raise KeyboardInterrupt

    schedule = Interrupted(environment(), 60, lambda findings: reported.extend(findings))
    with contextlib.suppress(KeyboardInterrupt):
        schedule.run([Phase("first", [task("a", "one", "hang")], 30)])
    assert [finding.results for finding in reported] == [{"one": ""}]
    assert reported[0].stopped == 1
