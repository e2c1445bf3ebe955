"""Progress on a terminal and in a log, by a clock that the tests set."""

import gc
import io
import pty
import termios
import threading
import time

import pytest

from vision.support import progress
from vision.support.progress import Board, Progress


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self):
        return True

    def rows(self):
        """Returns what can be seen: a carriage return goes to the beginning of its row."""
        rows = []
        for line in self.getvalue().split("\n"):
            row = ""
            for text in line.split("\r"):
                row = text + row[len(text) :]
            rows.append(row.rstrip())
        return rows


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(progress, "REDRAWN_EVERY", 3600)  # the tests say when
    return Clock()


def run(clock, board, work, seconds):
    """Lets time pass; `work` has done as much as the clock shows since the beginning."""
    for _ in range(round(4 * seconds)):
        clock.now += 0.25
        if work is not None and clock.now % 1 == 0:
            work.reach(int(clock.now - Clock.now))
        board.show()


def test_a_log_has_a_line_after_two_seconds_and_then_one_every_five(clock):
    log = io.StringIO()
    board = Board(clock, log)
    with board.command(), Progress("scanning", 1000, "images", board=board) as work:
        run(clock, board, work, 1.75)
        assert log.getvalue() == ""
        run(clock, board, work, 15)
    lines = log.getvalue().splitlines()
    # one image a second, so 1,000 - 2 - 4, ... seconds are left
    assert lines[1] == "scanning: 6 of 1,000 images, 0.91/s, 18:13 left"
    assert len(lines) == 4 and log.getvalue().endswith("\n") and "\r" not in log.getvalue()


def test_short_work_is_not_mentioned_unless_much_of_it_is_silent(clock):
    log = io.StringIO()
    board = Board(clock, log)
    with board.command():
        with Progress("short", 1, board=board):
            run(clock, board, None, 1.75)
        assert log.getvalue() == ""
    with board.command():
        for number in range(12):
            with Progress(f"part {number}", board=board):
                run(clock, board, None, 1.5)
    assert log.getvalue().splitlines() == [
        "part 1: 00:01",
        "part 4: 00:01",
        "part 7: 00:01",
        "part 10: 00:01",
    ]


def test_idle_time_is_no_silence(clock):
    log = io.StringIO()
    board = Board(clock, log)
    clock.now += 100
    with board.command(), Progress("short", 1, board=board):
        run(clock, board, None, 1.75)
    assert log.getvalue() == ""


def test_a_command_speaks_if_nothing_else_does(clock):
    log = io.StringIO()
    board = Board(clock, log)
    with board.command():
        run(clock, board, None, 2.75)
        assert log.getvalue() == ""
        run(clock, board, None, 0.5)
        assert log.getvalue() == "starting: 00:03\n"
        with board.above():  # something else is printed
            pass
        run(clock, board, None, 4.25)
        with Progress("short", 1, board=board):
            pass
        run(clock, board, None, 0.5)
    assert log.getvalue().splitlines() == ["starting: 00:03", "still working: 00:07"]


def test_nested_work_has_all_levels(clock):
    log = io.StringIO()
    board = Board(clock, log)
    with (
        board.command(),
        Progress("corruption", 15, board=board) as corruptions,
        Progress("images", 2000, board=board) as images,
    ):
        corruptions.advance(3)
        images.reach(500)
        clock.now += 2
        images.reach(1000)
        board.show()
    assert log.getvalue() == "corruption 3 of 15: images: 1,000 of 2,000, 250/s, 00:04 left\n"


def test_a_terminal_has_one_row_which_is_gone_in_the_end(clock):
    terminal = Terminal()
    board = Board(clock, terminal)
    with board.command(), Progress("scanning", 8, "images", board=board) as work:
        run(clock, board, work, 4)
        (row,) = terminal.rows()
        assert row.startswith("scanning: 4 of 8 images |███")
        assert row.endswith("| 1/s, 00:04 left")
        assert len(row) == 79
        work.note("loss 0.5")
        board.show()
        assert terminal.rows()[0].endswith(" loss 0.5, 00:04 left")
        with board.above():
            terminal.write("a line\n")
        run(clock, board, work, 1)
        assert [row[:13] for row in terminal.rows()] == ["a line", "scanning: 5 o"]
    assert terminal.rows() == ["a line", ""]


def test_long_titles_are_cut(clock):
    terminal = Terminal()
    board = Board(clock, terminal)
    with board.command(), Progress("x" * 300, board=board):
        run(clock, board, None, 2)
        assert len(terminal.rows()[0]) <= 79
        assert "xxx" in terminal.rows()[0]
    with board.command(), Progress("x" * 300, 10, board=board) as work:
        run(clock, board, work, 2)
        assert len(terminal.rows()[0]) <= 79
    assert terminal.rows() == [""]


def test_quiet_shows_nothing(clock):
    for stream in (Terminal(), io.StringIO()):
        board = Board(clock, stream)
        with board.command():
            with board.quiet(), Progress("scanning", 10, board=board) as work:
                run(clock, board, work, 10)
            assert stream.getvalue() == ""
            run(clock, board, None, 10)
            assert "still working" in stream.getvalue()


def test_what_is_printed_beside_another_process_erases_its_line(clock):
    for stream in (Terminal(), io.StringIO()):
        stream.write("searching: 1 of 4 trials")  # by the other process
        board = Board(clock, stream)
        with board.quiet(beside=True), board.quiet(), board.above():
            stream.write("trial 1\n")
        assert stream.getvalue().endswith(f"trials\r{' ' * 79}\rtrial 1\n") is stream.isatty()


def test_silence_is_for_ever(clock):
    log = io.StringIO()
    board = Board(clock, log)
    board.silence()
    gc.collect()
    with board.command(), Progress("scanning", 10, board=board) as work:
        run(clock, board, work, 10)
    assert log.getvalue() == ""


def test_on_a_terminal_a_command_speaks_two_seconds_after_its_work(clock):
    terminal = Terminal()
    board = Board(clock, terminal)
    with board.command():
        with Progress("scanning", 10, board=board) as work:
            run(clock, board, work, 3)
            assert terminal.rows()[0].startswith("scanning: 3 of 10")
        run(clock, board, None, 1.75)
        assert terminal.rows() == [""]
        run(clock, board, None, 0.25)
        assert terminal.rows() == ["still working: 00:05"]
    assert terminal.rows() == [""]


def test_the_end_of_a_command_ends_what_an_error_has_left(clock):
    terminal = Terminal()
    board = Board(clock, terminal)
    items = Progress("scanning", 10, board=board)
    with pytest.raises(ValueError, match="broken"), board.command():
        items.begin()  # as a generator that nobody closes
        run(clock, board, items, 3)
        assert terminal.rows() != [""]
        raise ValueError("broken")
    assert terminal.rows() == [""]
    items.close()
    run(clock, board, None, 10)
    assert terminal.rows() == [""]


def test_a_closed_stream_does_not_matter(clock):
    log = io.StringIO()
    log.close()
    board = Board(clock, log)
    with board.command(), Progress("scanning", 10, board=board) as work:
        run(clock, board, work, 5)


def test_threads_may_count_together_and_none_outlives_the_work(monkeypatch):
    monkeypatch.setattr(progress, "REDRAWN_EVERY", 0.001)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.001)
    log = io.StringIO()
    board = Board(stream=log)
    with board.command(), Progress("counting", 40_000, board=board) as work:

        def count():
            for _ in range(10_000):
                work.advance()

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert work.brief() == "counting 40,000 of 40,000"
        time.sleep(0.1)
    assert log.getvalue().startswith("counting: ")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_outside_of_a_command_only_the_training_speaks(clock):
    for stream in (Terminal(), io.StringIO()):
        board = Board(clock, stream)
        with Progress("reading", board=board):
            run(clock, board, None, 10)
            assert stream.getvalue() == ""
            with (
                Progress("training", 60, "steps", always=True, board=board) as work,
                Progress("validating", 60, board=board),
            ):
                run(clock, board, work, 10)
        text = stream.getvalue()
        assert "training: " in text and " of 60 steps" in text
        assert "reading" not in text and "validating" not in text
        assert not isinstance(stream, Terminal) or stream.rows() == [""]


def test_counted_work_has_fewer_lines_after_minutes(clock):
    log = io.StringIO()
    board = Board(clock, log)
    with board.command(), Progress("training", 9000, "steps", board=board) as work:
        run(clock, board, work, 120)
        assert len(log.getvalue().splitlines()) == 1 + (120 - 2) // 4.5
        log.truncate(0)
        run(clock, board, work, 3600)
        assert len(log.getvalue().splitlines()) == 3600 // 30
        log.truncate(0)
        with Progress("compiling", board=board):  # of which nobody sees how long it takes
            run(clock, board, work, 60)
        assert len(log.getvalue().splitlines()) == 1 + (60 - 2) // 4.5


def test_a_line_that_fails_does_not_end_those_after_it(monkeypatch):
    monkeypatch.setattr(progress, "REDRAWN_EVERY", 0.001)
    monkeypatch.setattr(progress, "FIRST_LINE", 0)
    log = io.StringIO()
    board = Board(stream=log)
    with board.command(), Progress("counting", 10, board=board) as work:
        line = work.line
        failures = []

        def fail(*arguments):
            work.line = line
            failures.append(arguments)
            raise ImportError("a package is missing")

        work.line = fail
        while not log.getvalue():
            time.sleep(0.01)
    assert len(failures) == 1 and log.getvalue().startswith("counting: ")


def test_work_that_ends_while_its_line_is_made_leaves_none(clock, monkeypatch):
    terminal = Terminal()
    board = Board(clock, terminal)
    with board.command(), Progress("scanning", 10, board=board) as work:
        run(clock, board, work, 1)
        row = progress.text.row

        def end(*arguments):
            work.close()  # by another thread
            return row(*arguments)

        monkeypatch.setattr(progress.text, "row", end)
        run(clock, board, None, 0.25)
        assert terminal.rows() == [""]


def test_a_terminal_that_hangs_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(progress, "REDRAWN_EVERY", 0.01)
    monkeypatch.setattr(progress.text, "PATIENCE", 0.2)
    reading, writing = pty.openpty()
    with open(writing, "w") as terminal, open(reading, "rb"):
        board = Board(stream=terminal)
        with board.command(), Progress("scanning", 10, board=board):
            while not board.erasing():
                time.sleep(0.01)
            termios.tcflow(writing, termios.TCOOFF)  # as by Ctrl-S
            time.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 3 * progress.LONGEST_JOIN


def test_track_hands_on_what_it_is_given(capsys):
    assert list(progress.track(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
