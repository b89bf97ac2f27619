"""The one error that a user is meant to read."""

from __future__ import annotations

import pytest

from poise.errors import PoiseError, in_one_line


def test_a_script_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, in_one_line():
        raise PoiseError("no such folder", where="DIR", do="check the path", exit_code=3)
    assert left.value.code == 3 and capsys.readouterr().err == "error: DIR: no such folder (check the path)\n"


def test_a_bug_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError), in_one_line():
        raise ZeroDivisionError
