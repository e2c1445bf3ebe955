"""Commands run within a test, with what they print and how they end."""

from collections.abc import Callable, Sequence

from vision import cli


def exit_code(main: Callable[[Sequence[str]], None], *argv: object) -> int:
    """Runs a command as `python -m` does; returns its exit code."""
    try:
        cli.run(main, [str(word) for word in argv])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def outcome(main, capsys, *argv) -> tuple[int, str, str]:
    """Runs a command; returns its exit code, and what it wrote to stdout and to stderr."""
    code = exit_code(main, *argv)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def refusal(main, capsys, *argv) -> str:
    """Runs a command that must fail on a mistake of the user's; returns its message.

    It asserts one or two lines on stderr and exit code 2. Stdout may have what came before.
    """
    code, _, err = outcome(main, capsys, *argv)
    assert code == 2, (code, err)
    assert err.startswith("error: ") and len(err.splitlines()) <= 2 and "Traceback" not in err, err
    return err.removeprefix("error: ").strip()
