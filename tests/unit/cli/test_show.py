import pytest

from batchd.cli.show import duration, printable, size, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (80, "1 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * 1024**2, "200.0 MiB")],
)
def test_sizes_are_binary(count: int, text: str) -> None:
    assert size(count) == text
    assert size(5 * 1024**3) == "5.0 GiB"


def test_control_characters_become_blanks() -> None:
    assert printable("a\x1b[31m\nb\u202ec é") == "a [31m b c é"


def test_a_table_leaves_out_the_last_columns_where_it_is_narrow() -> None:
    rows = [("aaaa", "bbbb", "cccc")]
    assert table("xyz", rows, None) == "x     y     z\naaaa  bbbb  cccc"
    assert table("xyz", rows, 15) == "x     y\naaaa  bbbb"
    assert table("xyz", rows, 1) == "x\naaaa"


def test_colours_do_not_count_as_width() -> None:
    assert table("xy", [("\x1b[32mok\x1b[0m", "b")], None).splitlines()[0] == "x   y"
