"""Which parts of its arguments a call wrote to, and buffers watched to the byte where they share a page."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

import pagescan
from pagescan import Closed, CoverageLost, InvalidArgument, NotContiguous, Quality
from pagescan.model import Machine
from pagescan.trackers.watch import Watch

from .test_tracker import FakeTensor

PAGE = mmap.PAGESIZE


@pytest.fixture
def array() -> np.ndarray:
    return pagescan.zeros(8 * PAGE, np.uint8)


class TestWatch:
    def test_whole_pages_by_writes_and_edges_by_values(self, array):
        part = array[10 : 3 * PAGE + 10]
        with Watch(part) as watch:
            array[5] = array[3 * PAGE + 20] = 1  # neighbours in both edge pages
            part[20] = 0  # the value that was there
            assert watch.peek().slices(part) == []
            part[30] = part[3 * PAGE - 1] = 1
            part[PAGE] = 0
            assert watch.peek().slices(part) == [
                slice(30, 31),
                slice(PAGE - 10, 2 * PAGE - 10),
                slice(3 * PAGE - 1, 3 * PAGE),
            ]
            assert watch.peek().quality is Quality.EXACT

    def test_a_changed_byte_is_its_whole_element(self):
        small = np.arange(10, dtype=np.int64)
        with Watch(small) as watch:
            small.view(np.uint8)[3 * 8 + 5] = 1
            assert watch.peek().slices(small) == [slice(3, 4)]
            assert watch.peek().slices(small[2:5]) == [slice(1, 2)]

    @pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 7])
    @pytest.mark.parametrize("offset", [0, 1, PAGE - 1])
    def test_every_byte_of_every_size_at_every_offset(self, array, size, offset):
        part = array[offset : offset + size]
        for at in {0, 1, PAGE - offset - 1, PAGE - offset, size // 2, size - 1} & set(range(size)):
            with Watch(part) as watch:
                part[at] += 1
                (found,) = watch.peek().slices(part)
                assert found.start <= at < found.stop
                first, last = (offset + found.start) // PAGE, (offset + found.stop - 1) // PAGE
                assert first == last == (offset + at) // PAGE

    def test_several_of_which_two_share_a_page(self, array):
        left, right = array[: PAGE // 2], array[PAGE // 2 : PAGE]
        with Watch(left, right) as watch:
            right[0] = 1
            assert (watch.peek().slices(left), watch.peek().slices(right)) == ([], [slice(0, 1)])

    def test_nothing_at_all(self):
        with Watch() as watch:
            assert not watch.peek()

    def test_on_the_model(self):
        process = Machine().process()
        at = process.mmap(4 * 4096)
        buffer = process.buffer(at + 100, 2 * 4096)
        with Watch(buffer) as watch:
            process.write(at, b"x")
            assert not watch.peek()
            process.write(at + 200, b"x")
            process.write(at + 4096, b"x")
            assert watch.peek().slices(buffer) == [slice(100, 101), slice(3996, 3996 + 4096)]

    def test_holds_what_it_watches(self):
        buffer = bytearray(10)
        with Watch(buffer), pytest.raises(BufferError):
            buffer.extend(b"x")
        buffer.extend(b"x")

    def test_a_bad_buffer_lets_go_of_those_before(self):
        buffer = bytearray(10)
        with pytest.raises(pagescan.NotABuffer):
            Watch(buffer, {})
        buffer.extend(b"x")

    def test_a_tensor_resized_behind_our_back(self, array):
        tensor = FakeTensor(array)
        with Watch(tensor) as watch:
            tensor.array = array[PAGE:]
            with pytest.raises(CoverageLost, match="resized"):
                watch.peek()

    def test_closed(self, array):
        watch = Watch(array)
        watch.close()
        watch.close()
        with pytest.raises(Closed):
            watch.peek()


def scale(values, factor, *more, out=None):
    out = values if out is None else out
    out[: out.size // 2] = values[: out.size // 2] * factor
    for one in more:
        one[0] = factor
    return "done"


class TestWrote:
    def test_says_what_was_returned_and_written_to(self, array):
        values = np.ones(8 * PAGE, np.uint8)
        call = pagescan.wrote(scale, values, 3, out=array)
        assert call.result == "done"
        assert call.slices == {"out": [slice(0, 4 * PAGE)]}
        assert call.written.slices(array) == [slice(0, 4 * PAGE)]
        assert call.watched == ("values", "out")
        assert call.error is None
        assert str(call) == f"scale wrote to elements [0:{4 * PAGE}] of out"

    def test_each_of_many_arguments_has_a_name(self):
        small = [np.zeros(4) for _ in range(3)]
        call = pagescan.wrote(scale, np.zeros(4), 7, small[0], small[1], small[1], out=small[2])
        assert call.slices == {f"more[{i}]": [slice(0, 1)] for i in range(3)}
        assert str(call) == "scale wrote to elements [0:1] of more[0]; [0:1] of more[1]; [0:1] of more[2]"

    def test_functions_that_do_not_tell_their_parameters(self, array):
        def write(*, into):
            into[0] = 1

        assert pagescan.wrote(write, into=array).slices == {"into": [slice(0, PAGE)]}
        call = pagescan.wrote(np.copyto, np.zeros(3), np.ones(3))
        assert call.slices == {call.watched[0]: [slice(0, 3)]}
        assert call.watched[0] in ("args[0]", "dst")

    def test_methods_and_what_they_refer_to(self):
        class Model:
            def __init__(self):
                self.weights = np.zeros(100)

            def step(self, batch):
                self.weights[3] = batch.sum()

        model, batch = Model(), np.ones(5)
        assert pagescan.wrote(model.step, batch).slices == {}
        call = pagescan.wrote(model.step, batch, buffers={"weights": model.weights})
        assert (call.watched, call.slices) == (("weights",), {})  # the value that was there, in a page of many objects
        model.weights[3] = 0
        call = pagescan.wrote(Model.step, model, batch, buffers=lambda self, batch: {"weights": self.weights})
        assert call.slices == {"weights": [slice(3, 4)]}
        model.weights[3] = 0
        call = pagescan.wrote(model.step, batch, buffers=[model.weights, batch])
        assert call.slices == {"buffers[0]": [slice(3, 4)]}
        assert call.watched == ("buffers[0]", "batch")

    def test_nothing_to_watch_is_said(self):
        assert str(pagescan.wrote(len, "text")) == "len was given no buffer"
        assert pagescan.wrote(bytes.upper, b"text").result == b"TEXT"

    def test_an_error_gets_a_note(self, array):
        def fail(into):
            into[0] = 1
            raise KeyError("mine")

        with pytest.raises(KeyError) as caught:
            pagescan.wrote(fail, array)
        assert caught.value.__notes__ == [f"pagescan: fail wrote to elements [0:{PAGE}] of into and raised KeyError"]

    def test_wrong_arguments_are_the_functions_own_error(self, array):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            pagescan.wrote(scale, array)

    def test_many_slices_are_cut_short(self, array):
        call = pagescan.wrote(lambda into: into.__setitem__(slice(None, None, 2 * PAGE), 1), array)
        assert len(call.slices["into"]) == 4
        again = pagescan.zeros(20 * PAGE, np.uint8)
        call = pagescan.wrote(lambda into: into.__setitem__(slice(None, None, 2 * PAGE), 1), again)
        assert str(call).endswith("and 6 more ranges of into")

    def test_scattered_arguments_are_refused_by_name(self, array):
        with pytest.raises(NotContiguous, match=r"the argument values: .*not one C-contiguous run"):
            pagescan.wrote(scale, array[::2], 1)
        assert pagescan.wrote(scale, array[::2], 1, buffers=[array]).watched == ("buffers[0]",)

    def test_what_runs_later_is_refused(self, array):
        async def coroutine(into): ...

        def generator(into):
            yield into

        for func in (coroutine, generator):
            with pytest.raises(InvalidArgument, match="runs only after the call"):
                pagescan.wrote(func, array)
            with pytest.raises(InvalidArgument, match="runs only after the call"):
                pagescan.reports_writes(print)(func)

    def test_an_array_for_buffers_is_refused(self, array):
        with pytest.raises(InvalidArgument, match="buffers is an array itself"):
            pagescan.wrote(scale, array, 1, buffers=array)


class TestReportsWrites:
    def test_each_call_is_reported_and_its_result_stays(self, array):
        calls: list[pagescan.Wrote] = []
        reported = pagescan.reports_writes(calls.append)(scale)
        assert reported(array, 1) == reported(array, 2, np.zeros(3)) == "done"
        assert [call.slices for call in calls] == [
            {"values": [slice(0, 4 * PAGE)]},
            {"values": [slice(0, 4 * PAGE)], "more[0]": [slice(0, 1)]},
        ]
        assert calls[0].result == "done"

    def test_it_looks_like_what_it_wraps(self):
        assert pagescan.reports_writes(print)(scale).__name__ == "scale"

    def test_a_method(self, capsys):
        class Model:
            weights = np.zeros(100)

            @pagescan.reports_writes(print, buffers=lambda self, batch: [self.weights])
            def step(self, batch):
                self.weights[batch] = 1

        Model().step(7)
        assert capsys.readouterr().out == "step wrote to elements [7:8] of buffers[0]\n"

    def test_one_within_another(self, array):
        calls: list[pagescan.Wrote] = []

        @pagescan.reports_writes(calls.append)
        def inner(into):
            into[PAGE] = 1

        @pagescan.reports_writes(calls.append)
        def outer(into):
            into[0] = 1
            inner(into)
            into[3 * PAGE] = 1

        outer(array)
        assert [str(call) for call in calls] == [
            f"inner wrote to elements [{PAGE}:{2 * PAGE}] of into",
            f"outer wrote to elements [0:{2 * PAGE}], [{3 * PAGE}:{4 * PAGE}] of into",
        ]

    def test_a_call_that_raises_is_reported_too(self, array):
        calls: list[pagescan.Wrote] = []

        @pagescan.reports_writes(calls.append)
        def fail(into):
            into[0] = 1
            raise KeyError("mine")

        with pytest.raises(KeyError):
            fail(array)
        assert isinstance(calls[0].error, KeyError)
        assert calls[0].slices == {"into": [slice(0, PAGE)]}

    def test_without_a_report_it_says_how(self):
        with pytest.raises(InvalidArgument, match="is not callable"):
            pagescan.reports_writes(None)  # type: ignore[arg-type]
