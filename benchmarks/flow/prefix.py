"""What the order of lines does for a real llama.cpp: prompt tokens really processed, and the time.

    python -m benchmarks.flow.prefix [--quick]

600 requests that share 12 long system prompts, in random order, on two servers: one whose slots
keep what they processed last and nothing else (``--parallel 4 --cache-ram 0``), and one with
llama.cpp's default caching. Each is run with ``order = "prefix"`` and with ``order = "input"``; the
tokens are the server's own count (``timings.prompt_n`` of each answer). It ends with 1 if, on the
first server, "prefix" processes more than 0.3 of the tokens that "input" does, or if a request is
not answered exactly once.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.flow.llama import LlamaServer, Options
from benchmarks.job import Client
from tests.support.batchd_process import BatchdProcess

_SYSTEM_PROMPTS = 12
_SYSTEM_WORDS = 230  # about 300 tokens
_SLOTS = 4
_MOST = 0.3
_TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})

_WORDS = (
    *("answer", "question", "reader", "short", "plain", "careful", "number", "order", "reason"),
    *(
        "place",
        "figure",
        "letter",
        "river",
        "city",
        "winter",
        "paper",
        "market",
        "window",
        "garden",
    ),
    *("doctor", "travel", "music", "history", "science", "measure", "colour", "simple", "never"),
    *("always", "first", "second", "report", "person", "people", "country", "language", "animal"),
)


class Run(msgspec.Struct, frozen=True):
    """What one order came to on one server."""

    order: str
    seconds: float
    processed: int
    cached: int
    once: bool


def write_input(path: Path, lines: int) -> None:
    """``lines`` requests in random order, the same ones each time."""
    chance = random.Random(12)  # noqa: S311 - a benchmark
    systems = [
        f"You are assistant number {number}. " + " ".join(chance.choices(_WORDS, k=_SYSTEM_WORDS))
        for number in range(_SYSTEM_PROMPTS)
    ]
    numbers = list(range(lines))
    chance.shuffle(numbers)
    with path.open("w", encoding="utf-8") as file:
        for number in numbers:
            question = f"Question {number}: what is {number} plus {chance.randint(1, 99)}?"
            body = {
                "model": LlamaServer.model,
                "max_tokens": 8,
                "temperature": 0,
                "messages": [
                    {"role": "system", "content": systems[number % _SYSTEM_PROMPTS]},
                    {"role": "user", "content": question},
                ],
            }
            line = {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            file.write(json.dumps(line) + "\n")


def run(options: Options, order: str, lines: int, directory: Path) -> Run:
    """One batch on a server and a daemon that have seen nothing before."""
    directory.mkdir()
    input_path = directory / "input.jsonl"
    write_input(input_path, lines)
    with LlamaServer(options, directory / "llama.log") as server:
        settings = {
            "batches": {"order": order},
            "backends": [
                {"name": "llama", "base_url": server.base_url, "max_in_flight": options.slots}
            ],
        }
        with BatchdProcess(directory, settings=settings) as batchd:
            client = Client(batchd.port)
            batch_id = client.create(client.upload(input_path))
            began = time.monotonic()
            while (batch := client.batch(batch_id))["status"] not in _TERMINAL:
                time.sleep(0.05)
            seconds = time.monotonic() - began
            answers = _answers(batchd.state, batch)
    processed = sum(answer["prompt_n"] for answer in answers.values())
    cached = sum(answer.get("cache_n", 0) for answer in answers.values())
    return Run(order, seconds, processed, cached, len(answers) == lines)


def _answers(state: Path, batch: dict[str, object]) -> dict[str, dict[str, int]]:
    """The server's own timings of each answer, by custom_id."""
    path = state / "files" / str(batch["output_file_id"])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["custom_id"]: line["response"]["body"]["timings"] for line in lines}


def _measure(
    name: str, options: Options, lines: int, directory: Path, orders: list[str]
) -> list[str]:
    """One server with each order; what is broken."""
    directory.mkdir()
    runs: list[Run] = []
    for order in orders:
        runs.append(run(options, order, lines, directory / order))
        one = runs[-1]
        say(f"{name:18}{one.order:8}{one.seconds:9.1f}{one.processed:18,}{one.cached:12,}")
    faults = [f"{name}: not every request was answered once" for one in runs if not one.once]
    if len(runs) > 1:
        plain, ordered = runs
        share = ordered.processed / plain.processed
        say(f"{name:18}ratio {ordered.seconds / plain.seconds:11.2f}{share:18.2f}")
        if options.cache_ram == 0 and share > _MOST:
            faults.append(f"{name}: {share:.2f} of the tokens were processed, not {_MOST}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the order of lines does.")
    parser.add_argument("--quick", action="store_true", help="120 lines, and only the first server")
    parser.add_argument("--server", choices=["plain", "default"], help="only this one")
    parser.add_argument("--order", choices=["input", "prefix"], help="only this one: no ratio")
    parser.add_argument("--directory", type=Path, help="where to put files (default: a temporary)")
    given = parser.parse_args()
    lines = 120 if given.quick else 600
    servers = {
        "plain": ("--cache-ram 0", Options(slots=_SLOTS, cache_ram=0)),
        "default": ("default caching", Options(slots=_SLOTS)),
    }
    kinds = [given.server] if given.server else ["plain"] if given.quick else list(servers)
    orders = [given.order] if given.order else ["input", "prefix"]
    directory = Path(tempfile.mkdtemp(prefix="batchd-prefix-", dir=given.directory))
    faults: list[str] = []
    say(f"{lines} lines, {_SYSTEM_PROMPTS} system prompts, llama.cpp with {_SLOTS} slots")
    say(f"{'server':18}{'order':8}{'seconds':>9}{'tokens processed':>18}{'from cache':>12}")
    try:
        for kind in kinds:
            name, options = servers[kind]
            faults += _measure(name, options, lines, directory / kind, orders)
    finally:
        shutil.rmtree(directory)
    for fault in faults:
        say(f"broken: {fault}")
    return 1 if faults else 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
