"""The prompts of ``batchd demo``: short, and within the reach of a very small model. Pure."""

import json

MODEL = "smollm2"
ENDPOINT = "/v1/chat/completions"
_MAX_TOKENS = 48

_QUESTIONS = (
    "What is {}? Answer in one sentence.",
    "Give one interesting fact about {}.",
    "Explain {} to a child in one short sentence.",
    "Write a short title for a text about {}.",
)

_SUBJECTS = (
    "the moon",
    "a volcano",
    "bread",
    "the ocean",
    "a bicycle",
    "rain",
    "a library",
    "the sun",
    "honey",
    "a lighthouse",
    "gravity",
    "a river",
    "chess",
    "the heart",
    "snow",
    "a telescope",
    "coffee",
    "a rainbow",
    "music",
    "a compass",
    "the wind",
    "a bridge",
    "a garden",
    "paper",
)


def prompt(index: int) -> str:
    """The prompt with this index, from 0. The first 96 differ."""
    rounds, subject = divmod(index, len(_SUBJECTS))
    return _QUESTIONS[(subject + rounds) % len(_QUESTIONS)].format(_SUBJECTS[subject])


def request_line(index: int) -> str:
    """One line of the input file."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt(index)}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
    }
    request = {"custom_id": _name(index), "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(request) + "\n"


def index_of(custom_id: str) -> int:
    return int(custom_id.removeprefix("prompt-")) - 1


def _name(index: int) -> str:
    return f"prompt-{index + 1}"
