"""Two hundred real prompts for each endpoint, and what a right answer to each would say. Pure.

All are made of the same short facts, so that a very small model knows a good part of them.
"""

import json

import msgspec

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS)

_MODEL = "smollm2"
# A chat answers in a sentence; a text goes on with the word itself.
_MAX_TOKENS = {CHAT: 10, COMPLETIONS: 6}


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of fact: ``{0}`` is what is asked about, ``{1}`` what a right answer says.

    ``facts`` has them as ``about: answer; …``, or only ``about; …`` where the two are the same.
    """

    question: str
    beginning: str
    statement: str
    paraphrase: str
    facts: str

    def pairs(self) -> list[tuple[str, str]]:
        found = [fact.partition(":") for fact in self.facts.split(";")]
        return [(about.strip(), (answer or about).strip()) for about, _, answer in found]


CAPITALS = Kind(
    question="What is the capital of {0}?",
    beginning="The capital of {0} is the city of",
    statement="The capital of {0} is {1}.",
    paraphrase="{1} is the city from which {0} is governed.",
    facts=(
        "France: Paris; Italy: Rome; Spain: Madrid; Portugal: Lisbon; Germany: Berlin;"
        "Austria: Vienna; Belgium: Brussels; Ireland: Dublin; Scotland: Edinburgh;"
        "Norway: Oslo; Sweden: Stockholm; Denmark: Copenhagen; Finland: Helsinki;"
        "Iceland: Reykjavik; Poland: Warsaw; Hungary: Budapest; Greece: Athens;"
        "Bulgaria: Sofia; Romania: Bucharest; Serbia: Belgrade; Croatia: Zagreb;"
        "Ukraine: Kyiv; Russia: Moscow; Turkey: Ankara; Egypt: Cairo; Morocco: Rabat;"
        "Algeria: Algiers; Tunisia: Tunis; Libya: Tripoli; Sudan: Khartoum; Kenya: Nairobi;"
        "Ethiopia: Addis Ababa; Ghana: Accra; Senegal: Dakar; Nigeria: Abuja;"
        "Zimbabwe: Harare; Uganda: Kampala; Rwanda: Kigali; Israel: Jerusalem;"
        "Lebanon: Beirut; Syria: Damascus; Jordan: Amman; Iraq: Baghdad; Iran: Tehran;"
        "Saudi Arabia: Riyadh; Qatar: Doha; Afghanistan: Kabul; Pakistan: Islamabad;"
        "India: Delhi; Nepal: Kathmandu; Bangladesh: Dhaka; Thailand: Bangkok;"
        "Vietnam: Hanoi; Cambodia: Phnom Penh; Indonesia: Jakarta; Malaysia: Kuala Lumpur;"
        "China: Beijing; Taiwan: Taipei; Japan: Tokyo; South Korea: Seoul;"
        "the Philippines: Manila; Australia: Canberra; New Zealand: Wellington;"
        "Canada: Ottawa; the United States: Washington; Mexico: Mexico City; Cuba: Havana;"
        "Jamaica: Kingston; Peru: Lima; Chile: Santiago; Argentina: Buenos Aires;"
        "Uruguay: Montevideo; Brazil: Brasilia; Colombia: Bogot; Venezuela: Caracas;"
        "Ecuador: Quito; Bolivia: La Paz; Mongolia: Ulaanbaatar; Switzerland: Bern;"
        "the Czech Republic: Prague"
    ),
)

OPPOSITES = Kind(
    question='What is the opposite of "{0}"? Answer in one word.',
    beginning='The opposite of "hot" is "cold", and the opposite of "{0}" is "',
    statement='The opposite of "{0}" is "{1}".',
    paraphrase="What is {0} cannot be {1} at the same time.",
    facts=(
        "big: small; tall: short; fast: slow; light: dark; day: night; up: down; left: right;"
        "open: close; good: bad; happy: sad; rich: poor; young: old; new: old; early: late;"
        "wet: dry; full: empty; hard: soft; heavy: light; high: low; inside: outside;"
        "first: last; easy: difficult; strong: weak; clean: dirty; loud: quiet; true: false;"
        "love: hate; win: lose; buy: sell; push: pull; north: south; east: west; black: white;"
        "summer: winter; begin: end; always: never; above: below; sweet: sour; wide: narrow;"
        "thick: thin; near: far; life: death; war: peace; brave: coward; smooth: rough;"
        "success: failure; increase: decrease; awake: asleep; noisy: quiet; male: female"
    ),
)

COLOURS = Kind(
    question="What color is {0}? Answer with the name of the color.",
    beginning="Blood is red, snow is white, coal is black, and {0} is",
    statement="Its color is {1}, as you would expect of {0}.",
    paraphrase="Anybody who has seen {0} knows that it looks {1}.",
    facts=(
        "the sky on a clear day: blue; fresh grass: green; a ripe banana: yellow;"
        "a ripe tomato: red; a carrot: orange; milk: white; a lemon: yellow; a polar bear: white;"
        "a raven: black; a fire truck: red; an elephant: gray; a tree's trunk: brown;"
        "a leaf in spring: green; chocolate: brown; a ripe strawberry: red; the ocean: blue;"
        "an eggplant: purple; a pumpkin: orange; a flamingo: pink; a frog: green;"
        "cotton: white; the night sky: black; an emerald: green; a ruby: red; a sapphire: blue;"
        "gold: yellow; a sunflower: yellow; lavender: purple; coffee: brown; a cloud: white"
    ),
)

ECHOES = Kind(
    question="Repeat this word and say nothing else: {0}",
    beginning="{0} {0} {0} {0} {0}",
    statement="Please say the word {0} again.",
    paraphrase="Could you repeat {1} for me?",
    facts=(
        "lantern; harbor; pepper; violin; ladder; meadow; rocket; pillow; basket; thunder;"
        "candle; mirror; castle; garden; hammer; island; jacket; kitten; library; mountain;"
        "needle; onion; parrot; quilt; river; saddle; tiger; umbrella; village; window; anchor;"
        "bridge; camera; dragon; engine; feather; guitar; helmet; igloo; jungle"
    ),
)

KINDS = (CAPITALS, OPPOSITES, COLOURS, ECHOES)


class Prompt(msgspec.Struct, frozen=True):
    """A line's name, what is asked, and a word that a right answer contains, in lower case."""

    custom_id: str
    text: str
    expected: str


def prompts(endpoint: str) -> list[Prompt]:
    """The prompts of an endpoint, in the order of its file."""
    if endpoint == EMBEDDINGS:
        return _sentences()
    return [
        _prompt(number, about, kind.question if endpoint == CHAT else kind.beginning, answer)
        for number, (kind, about, answer) in enumerate(_facts())
    ]


def input_file(endpoint: str) -> bytes:
    """All prompts of an endpoint as request lines."""
    return b"".join(_request_line(endpoint, prompt) for prompt in prompts(endpoint))


def _request_line(endpoint: str, prompt: Prompt) -> bytes:
    body = _body(endpoint, prompt.text)
    line = {"custom_id": prompt.custom_id, "method": "POST", "url": endpoint, "body": body}
    return json.dumps(line).encode() + b"\n"


def _body(endpoint: str, text: str) -> dict[str, object]:
    if endpoint == EMBEDDINGS:
        return {"model": _MODEL, "input": text}
    asked: dict[str, object] = {"prompt": text}
    if endpoint == CHAT:
        asked = {"messages": [{"role": "user", "content": text}]}
    return {"model": _MODEL, **asked, "max_tokens": _MAX_TOKENS[endpoint], "temperature": 0}


def partner(custom_id: str) -> str:
    """The line whose sentence says the same in other words."""
    name, _, which = custom_id.rpartition("-")
    return f"{name}-{'b' if which == 'a' else 'a'}"


def _facts() -> list[tuple[Kind, str, str]]:
    return [(kind, about, answer) for kind in KINDS for about, answer in kind.pairs()]


def _prompt(number: int, about: str, template: str, answer: str) -> Prompt:
    return Prompt(f"prompt-{number:03}", template.format(about, answer), answer.lower())


def _sentences() -> list[Prompt]:
    """Every other fact, said in two ways."""
    return [
        Prompt(f"fact-{number:03}-{which}", sentence.format(about, answer), answer.lower())
        for number, (kind, about, answer) in enumerate(_facts()[::2])
        for which, sentence in (("a", kind.statement), ("b", kind.paraphrase))
    ]
