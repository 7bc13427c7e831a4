"""Group commit: what arrives together shares a batch; each caller gets its own result; one bad item harms nobody."""

import asyncio
import threading
import time

import pytest

from scoreboard_project.errors import Unavailable
from scoreboard_project.group_commit import AGAIN, GroupCommit, Lane


def double(items):
    return [item * 2 for item in items]


async def test_each_caller_gets_its_own_result():
    group = GroupCommit("test", double)
    assert await asyncio.gather(*(group.submit(number) for number in range(50))) == [number * 2 for number in range(50)]
    group.lane.close()


async def test_alone_an_item_runs_at_once_and_what_comes_meanwhile_is_the_next_batch():
    batches, first_runs, go_on = [], threading.Event(), threading.Event()

    def run(items):
        batches.append(list(items))
        first_runs.set()
        go_on.wait(5)
        return double(items)

    group = GroupCommit("test", run)
    first = asyncio.create_task(group.submit(1))
    await asyncio.sleep(0)
    await asyncio.to_thread(first_runs.wait, 5)
    others = [asyncio.create_task(group.submit(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert batches == [[1], [2, 3, 4]]
    group.lane.close()


async def test_a_batch_is_never_larger_than_it_may_be():
    sizes = []

    def run(items):
        sizes.append(len(items))
        return double(items)

    group = GroupCommit("test", run, most=8)
    await asyncio.gather(*(group.submit(number) for number in range(30)))
    assert max(sizes) == 8
    group.lane.close()


async def test_a_poisoned_item_fails_alone():
    def run(items):
        if 13 in items:
            raise ValueError("13")
        return double(items)

    group = GroupCommit("test", run)
    results = await asyncio.gather(*(group.submit(number) for number in range(20)), return_exceptions=True)
    assert isinstance(results.pop(13), ValueError)
    assert results == [number * 2 for number in range(20) if number != 13]
    group.lane.close()


async def test_an_item_may_be_refused_by_its_own_exception():
    group = GroupCommit("test", lambda items: [KeyError(item) if item % 2 else item for item in items])
    results = await asyncio.gather(*(group.submit(number) for number in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [int, KeyError, int, KeyError]
    group.lane.close()


async def test_an_outage_is_everybody_s_and_is_not_tried_item_by_item():
    runs = []

    def run(items):
        runs.append(len(items))
        raise Unavailable

    group = GroupCommit("test", run)
    results = await asyncio.gather(*(group.submit(number) for number in range(10)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert sum(runs) == 10
    group.lane.close()


async def test_an_item_that_must_wait_is_asked_again_and_keeps_its_place():
    asked = []

    def run(items):
        asked.append(list(items))
        return [AGAIN if len(asked) < 4 and item == 1 else item for item in items]

    group = GroupCommit("test", run)
    assert await asyncio.gather(group.submit(1), group.submit(2)) == [1, 2]
    assert all(batch[0] == 1 for batch in asked)
    group.lane.close()


async def test_patience_ends_with_unavailable():
    group = GroupCommit("test", lambda items: [AGAIN] * len(items), patience=0.1)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(group.submit(1), 2)
    group.lane.close()


async def test_a_caller_who_leaves_does_not_undo_the_item_nor_disturb_the_others():
    done, go_on = [], threading.Event()

    def run(items):
        go_on.wait(5)
        done.extend(items)
        return double(items)

    group = GroupCommit("test", run)
    leaving = asyncio.create_task(group.submit(1))
    staying = asyncio.create_task(group.submit(2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    go_on.set()
    assert await staying == 4
    assert done == [1, 2]
    group.lane.close()


def test_it_moves_with_the_event_loop():
    group = GroupCommit("test", double)
    assert asyncio.run(group.submit(1)) == 2
    assert asyncio.run(group.submit(2)) == 4
    group.lane.close()


async def test_a_stalled_batch_keeps_nobody_waiting_and_what_waited_behind_it_is_never_run():
    ran, thaw = [], threading.Event()

    def run(items):
        thaw.wait(5)
        ran.extend(items)
        return double(items)

    group = GroupCommit("test", run, patience=0.15)
    calls = [asyncio.create_task(group.submit(1))]
    await asyncio.sleep(0.02)
    calls += [asyncio.create_task(group.submit(number)) for number in (2, 3)]
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1)
    assert all(isinstance(result, Unavailable) for result in results)
    thaw.set()
    assert await group.submit(4) == 8
    assert ran == [1, 4]
    group.lane.close()


async def test_the_line_has_an_end():
    go_on = threading.Event()
    group = GroupCommit("test", lambda items: (go_on.wait(5), double(items))[1], longest=3)
    calls = [asyncio.create_task(group.submit(number)) for number in range(6)]
    await asyncio.sleep(0.02)
    with pytest.raises(Unavailable):
        await calls[5]
    go_on.set()
    assert await asyncio.gather(*calls[:4]) == [0, 2, 4, 6]
    await asyncio.gather(*calls, return_exceptions=True)
    group.lane.close()


async def test_patience_counts_from_the_asking_not_from_the_batch():
    group = GroupCommit("test", lambda items: (time.sleep(0.4), double(items))[1], patience=0.5)
    first = asyncio.create_task(group.submit(1))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(group.submit(2))  # its batch starts at 0.4 s and ends at 0.8 s, past its 0.5
    started = time.monotonic()
    assert await first == 2
    with pytest.raises(Unavailable):
        await second
    assert time.monotonic() - started < 0.75
    group.lane.close()


async def test_groups_of_one_lane_take_turns_a_batch_each():
    ran, go_on, lane = [], threading.Event(), Lane("test")

    def noting(name):
        def run(items):
            ran.append((name, list(items)))
            go_on.wait(5)
            return double(items)

        return run

    letters, digits = GroupCommit(lane, noting("letters")), GroupCommit(lane, noting("digits"), most=2)
    calls = [asyncio.create_task(letters.submit("a"))]
    await asyncio.sleep(0.02)
    calls += [asyncio.create_task(group.submit(item)) for group, item in ((digits, 1), (letters, "b"), (digits, 2), (digits, 3))]
    await asyncio.sleep(0.02)
    assert ran == [("letters", ["a"])]  # one at a time
    go_on.set()
    assert await asyncio.gather(*calls) == ["aa", 2, "bb", 4, 6]
    assert ran == [("letters", ["a"]), ("digits", [1, 2]), ("letters", ["b"]), ("digits", [3])]
    assert await letters.submit("c") == "cc"
    lane.close()


async def test_patience_ends_behind_a_stalled_batch_of_another_group():
    thaw, lane = threading.Event(), Lane("test")
    stalled = GroupCommit(lane, lambda items: (thaw.wait(5), double(items))[1], patience=5)
    behind = GroupCommit(lane, double, patience=0.15)
    first = asyncio.create_task(stalled.submit(1))
    await asyncio.sleep(0.02)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(behind.submit(2), 1)
    thaw.set()
    assert await first == 2
    assert await behind.submit(3) == 6
    lane.close()


async def test_who_must_wait_for_a_row_keeps_no_other_group_waiting():
    lane, done = Lane("test"), []
    held = GroupCommit(lane, lambda items: [AGAIN if not done else item for item in items])
    free = GroupCommit(lane, lambda items: (done.extend(items), double(items))[1])
    assert await asyncio.gather(held.submit(1), free.submit(2)) == [1, 4]
    lane.close()
