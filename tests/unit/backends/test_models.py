"""Which models a backend has."""

import pytest

from batchd.backends.models import KnownModels, ListedModel, listed_models, matches


def test_a_list_is_read_whatever_else_it_says() -> None:
    first = b'{"id":"a","created":1.7e9,"owned_by":"us"}'
    body = b'{"object":"list","x":1e999,"data":[%b,{"id":"b"}]}' % first
    assert listed_models(body) == [ListedModel("a", 1_700_000_000, "us"), ListedModel("b")]


ODD = [b'"now"', b"null", b"true", b"-1", b"1e999", b"1e18", b"9" * 25, b"9" * 5000, b"[1e999]"]


@pytest.mark.parametrize("odd", [*ODD, b'"\xff"', b"7", b"{}"])
def test_a_model_whose_maker_or_age_makes_no_sense_is_listed_all_the_same(odd: bytes) -> None:
    created = b"5" if odd == b"7" else odd
    body = b'{"data":[{"id":"a","created":%b,"owned_by":%b}]}' % (created, odd)
    (model,) = listed_models(body)
    assert model.id == "a"
    assert model.created in {None, 5}
    assert model.owned_by in {None, "now"}


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
