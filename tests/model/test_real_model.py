"""Two hundred real prompts to each endpoint by each door, and answers that are about them."""

from collections.abc import Mapping

import pytest

from tests.model.conftest import DOORS, Run, Runs, answer_text
from tests.model.prompts import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, partner, prompts
from tests.support.checker import check

PROMPTS = 200
DIMENSIONS = 576

# How many of 200 answers must have the expected word. Seen were 132 and 115: the model is tiny.
RIGHT = {CHAT: 100, COMPLETIONS: 90}
# How many may have the word that another prompt expects.
RIGHT_BY_CHANCE = 20
# Of 100 sentences, so many must be closer to their paraphrase than to another. Seen were 100.
ALIKE = 95

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.slow,
    pytest.mark.timeout(290),
]

by_each_door = pytest.mark.parametrize("door", DOORS)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_prompts_are_two_hundred_and_differ(endpoint: str) -> None:
    asked = prompts(endpoint)
    assert len({prompt.text for prompt in asked}) == PROMPTS
    assert len({prompt.custom_id for prompt in asked}) == PROMPTS


@by_each_door
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_prompt_is_answered_once(door: str, endpoint: str, runs: Runs) -> None:
    account = runs.run(door, endpoint).account
    batch = account.batch
    assert (batch["status"], batch["endpoint"]) == ("completed", endpoint)
    summary = check(account, proof=None)
    assert (summary.total, summary.output_lines) == (PROMPTS, PROMPTS)
    assert batch["usage"]["input_tokens"] > PROMPTS
    assert (batch["usage"]["output_tokens"] > PROMPTS) == (endpoint != EMBEDDINGS)


@by_each_door
@pytest.mark.parametrize("endpoint", RIGHT)
def test_the_answers_are_about_their_prompts(door: str, endpoint: str, runs: Runs) -> None:
    asked = prompts(endpoint)
    answers = runs.run(door, endpoint).answers
    said = [answer_text(answers[prompt.custom_id]).lower() for prompt in asked]
    expected = [prompt.expected for prompt in asked]
    others = expected[PROMPTS // 2 :] + expected[: PROMPTS // 2]
    assert _how_many_contain(said, expected) >= RIGHT[endpoint]
    assert _how_many_contain(said, others) <= RIGHT_BY_CHANCE


@by_each_door
def test_embeddings_are_vectors_of_length_one(door: str, runs: Runs) -> None:
    for vector in _vectors(runs.run(door, EMBEDDINGS)).values():
        assert len(vector) == DIMENSIONS
        assert _product(vector, vector) == pytest.approx(1, abs=1e-3)


@by_each_door
def test_sentences_that_say_the_same_are_closer_than_others(door: str, runs: Runs) -> None:
    vectors = _vectors(runs.run(door, EMBEDDINGS))
    names = [name for name in sorted(vectors) if partner(name) > name]
    others = names[len(names) // 2 :] + names[: len(names) // 2]
    closer = [
        _product(vectors[name], vectors[partner(name)])
        > _product(vectors[name], vectors[partner(other)])
        for name, other in zip(names, others, strict=True)
    ]
    assert len(closer) == PROMPTS // 2
    assert sum(closer) >= ALIKE


def test_a_text_has_the_same_vector_by_each_door(runs: Runs) -> None:
    by_api, by_inbox = (_vectors(runs.run(door, EMBEDDINGS)) for door in DOORS)
    assert by_api.keys() == by_inbox.keys()
    for name, vector in by_api.items():
        # What is computed beside it changes the last digits.
        assert _product(vector, by_inbox[name]) == pytest.approx(1, abs=1e-3)


def _how_many_contain(texts: list[str], words: list[str]) -> int:
    return sum(word in text for text, word in zip(texts, words, strict=True))


def _vectors(run: Run) -> Mapping[str, list[float]]:
    return {name: answer["data"][0]["embedding"] for name, answer in run.answers.items()}


def _product(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))
