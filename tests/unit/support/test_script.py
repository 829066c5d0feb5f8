import pytest

from tests.support.script import step_at


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        ("ok", ["ok", "ok", "ok"]),
        ("500", ["500", "500", "500"]),
        ("500-forever", ["500", "500", "500"]),
        ("500-then-200", ["500", "ok", "ok"]),
        ("reset-then-200", ["reset", "ok", "ok"]),
        ("429:2", ["429", "429", "ok"]),
        ("reset:1", ["reset", "ok", "ok"]),
        ("429:2|500", ["429", "429", "500"]),
        ("timeout|429|404", ["timeout", "429", "404"]),
        ("slow:0.5", ["slow:0.5", "slow:0.5", "slow:0.5"]),
        ("slow:0.5-then-200", ["slow:0.5", "ok", "ok"]),
        ("retry-after:2", ["retry-after:2", "ok", "ok"]),
        ("retry-after:2|500", ["retry-after:2", "500", "500"]),
        ("redirect:http://127.0.0.1:1/x", ["redirect:http://127.0.0.1:1/x"] * 3),
        ("text-400", ["text-400"] * 3),
    ],
)
def test_a_script_says_what_happens_at_each_sending(behave: str, expected: list[str]) -> None:
    assert [step_at(behave, nth) for nth in (1, 2, 3)] == expected


@pytest.mark.parametrize("behave", ["", "no-such", "ok|no-such", "no-such-then-200", "text-x"])
def test_a_step_that_does_not_exist_is_an_error(behave: str) -> None:
    with pytest.raises(ValueError, match=r"step|literal"):
        step_at(behave, 1)
