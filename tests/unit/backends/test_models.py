"""Which models a backend has."""

import pytest

from batchd.backends.models import KnownModels, ListedModel, listed_models, matches


def test_a_list_is_read_whatever_else_it_says() -> None:
    body = b'{"object":"list","x":1,"data":[{"id":"a","created":"now","owned_by":7},{"id":"b"}]}'
    assert listed_models(body) == [ListedModel("a", "now", 7), ListedModel("b")]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data":[{}]}', b'{"data":[{"id":3}]}', b'{"data":"\xff"}']
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        listed_models(body)


@pytest.mark.parametrize(
    ("model", "is_known"),
    [
        ("llama3:latest", True),
        ("llama3", True),  # as Ollama takes it
        ("llama3:8b", False),
        ("qwen", True),
        ("qwen:latest", False),
        ("gpt-4", True),
        ("GPT-4", False),
        ("other", False),
    ],
)
def test_known_are_those_listed_and_those_of_the_globs(model: str, is_known: bool) -> None:
    known = KnownModels(frozenset({"llama3:latest", "qwen"}), ("gpt-*",))
    assert (model in known) is is_known


def test_of_two_backends_all_are_known() -> None:
    known = KnownModels(frozenset({"a"}), ("x-*",)) | KnownModels(frozenset({"b"}), ("y-*",))
    assert [name in known for name in ("a", "b", "x-1", "y-1", "c")] == [True] * 4 + [False]


def test_globs_are_of_the_shell() -> None:
    assert matches("gpt-4", ("x", "gpt-?"))
    assert not matches("gpt-40", ("x", "gpt-?"))
    assert not matches("gpt-4", ())
