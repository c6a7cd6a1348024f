"""The flows of the soak. Each attempt says when it began, that it goes on, and that it is done, in one file."""

from __future__ import annotations

import os
import time

from flow_agent import current_run, flow


def sign(word: str) -> None:
    """One line in the file of all signs, whole or not at all."""
    run = current_run()
    line = f"{word} {run.id} {run.attempt} {os.getpid()} {time.clock_gettime(time.CLOCK_MONOTONIC)!r}\n"
    file = os.open(os.environ["SOAK_SIGNS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def say(number: int) -> None:
    """What every flow prints: the judge counts these lines, and looks at their order."""
    print(f"{current_run().attempt} line {number}")


@flow(name="nothing", retries=3)
def nothing() -> None:
    sign("begins")
    sign("ends")


@flow(name="talks", retries=3)
def talks(lines: int) -> int:
    sign("begins")
    for number in range(lines):
        say(number)
    sign("ends")
    return lines


@flow(name="naps", retries=3)
def naps(lines: int) -> int:
    sign("begins")
    for number in range(lines):
        say(number)
        time.sleep(0.02)
        sign("goes-on")
    sign("ends")
    return lines


@flow(name="stays", retries=3)
def stays(lines: int) -> int:
    """Only of the chaos test: with enough lines it lives longer than a lease, and would go on when that has ended."""
    sign("begins")
    for number in range(lines):
        say(number)
        time.sleep(0.2)
        sign("goes-on")
    sign("ends")
    return lines


@flow(name="stumbles", retries=4)
def stumbles(lines: int) -> int:
    sign("begins")
    for number in range(lines):
        say(number)
    if current_run().attempt == 1:
        raise RuntimeError("the first attempt stumbles")
    sign("ends")
    return lines


@flow(name="once")
def once(lines: int) -> int:
    sign("begins")
    for number in range(lines):
        say(number)
        time.sleep(0.01)
    sign("ends")
    return lines


@flow(name="returns", retries=3)
def returns(size: int) -> str:
    sign("begins")
    sign("ends")
    return "x" * size


@flow(name="whispers", retries=3, secrets=["SOAK_SECRET"])
def whispers() -> int:
    sign("begins")
    print(current_run().secret("SOAK_SECRET"))
    sign("ends")
    return len(current_run().secret("SOAK_SECRET"))
