#!/usr/bin/env python3
"""The whole proxy beside others, on this machine. Prints Markdown tables; README.md says how to read them."""

import argparse
import os
import signal
import sys
import tempfile

import questions
from contestants import Field
from machine import describe, find

QUESTIONS = {
    "sizes": questions.sizes,
    "syscalls": questions.syscalls,
    "reuse": questions.reuse,
    "buckets": questions.buckets,
    "idle": questions.idle,
    "slow": questions.slow,
    "threads": questions.threads,
    "tail": questions.tail,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; default: sizes")
    parser.add_argument("--all", action="store_true", help="every question")
    parser.add_argument("--short", action="store_true", help="runs of one second: two minutes for `sizes`")
    parser.add_argument("--no-log", action="store_true", help="nobody writes a line a request")
    parser.add_argument("--only", metavar="NAME", help="contestants whose name contains it")
    parser.add_argument(
        "--binaries",
        default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release"),
        help="where `yatagarasu` and `examples/empty_proxy` are; default: %(default)s",
    )
    arguments = parser.parse_args()
    asked = list(QUESTIONS) if arguments.all else arguments.questions or ["sizes"]
    unknown = [question for question in asked if question not in QUESTIONS]
    if unknown:
        parser.error(f"`{unknown[0]}` is not a question; use {', '.join(QUESTIONS)}")
    missing = [program for program in ["nginx", "wrk", "taskset"] if not find(program)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}")
    if (os.cpu_count() or 1) < 2:
        parser.error("two CPUs are needed: one for the proxy, one for the load and the store")

    log = "nobody logs" if arguments.no_log else "everybody but the empty proxy logs a line a request to a file"
    print(f"{describe()}; {log}.")
    for question in asked:
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            field = Field(folder, arguments.binaries, not arguments.no_log, questions.connections(question))
            try:
                QUESTIONS[question](field, arguments)
            finally:
                field.stop()


if __name__ == "__main__":
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
