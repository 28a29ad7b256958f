#!/usr/bin/env python3
"""Runs the `console` blocks of documents as a reader would, each document in one shell with a home of its
own, and compares what comes with what the document shows: check-docs.py FILE...

A line that begins with `$ ` is typed, with the lines of its here-document; what follows, up to the next one,
must come in this order, among other lines. `…` stands for anything. Nothing is downloaded, and where the
system allows it the network is loopback alone, so the ports in the documents are free.

In README, CHANGELOG and below docs/, a link must lead to a file and to a heading in it, and a `rust` block that
names a file must be a part of that file, apart from indentation.
"""

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve() / "debug/yatagarasu"

# Commands that .ci/run runs as steps of their own.
ELSEWHERE = {"make demo", "make demo DEMO_ARGS=--check", "make test"}
# Installed from the debug build instead: a release build takes minutes and shows nothing about the document.
INSTALL = "cargo install --locked --path ."

PATIENCE = 60.0
PORTS = (8080, 9000)


def steps(text):
    """Commands, each with the lines that the document shows after it."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        lines = iter(block.splitlines())
        command, expected = None, []
        for line in lines:
            if not line.startswith("$ "):
                expected.append(line)
                continue
            if command:
                yield command, expected
            command, expected = line[2:], []
            if end := re.search(r"<<'(\w+)'", command):
                for more in lines:
                    command += "\n" + more
                    if more == end[1]:
                        break
        if command:
            yield command, expected


def missing(expected, output):
    """The first expected line that does not come, or None."""
    lines = iter(output)
    for wanted in filter(str.strip, expected):
        pattern = re.compile(".*".join(map(re.escape, wanted.rstrip().split("…"))))
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return wanted
    return None


def are_quotes_exact(document):
    """Whether every block that names a source file is a part of that file."""
    for name, block in re.findall(r"^```rust (\S+)\n(.*?)^```$", document.read_text(), re.M | re.S):
        source = [line.strip() for line in (REPOSITORY / name).read_text().splitlines()]
        quoted = [line.strip() for line in block.splitlines()]
        if not any(source[at : at + len(quoted)] == quoted for at in range(len(source))):
            print(f"{document}: this is not in {name}:", block, sep="\n")
            return False
    return True


def anchors(document):
    """Names of the headings of a document, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def are_links_whole(document):
    """Whether every link to a file leads to a file, and to a heading in it."""
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", document.read_text()):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            print(f"{document}: this link leads nowhere: {path}#{anchor}")
            return False
    return True


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Shell:
    """A bash process that gets commands on standard input, and the lines that it prints."""

    def __init__(self, home):
        environment = {
            "HOME": str(home),
            "PATH": f"{home}/.cargo/bin:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            # Without these variables, cargo and rustup look for their folders below HOME.
            "CARGO_HOME": os.environ.get("CARGO_HOME", str(Path.home() / ".cargo")),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup")),
            "CARGO_NET_OFFLINE": "true",
        }
        if "CARGO_TARGET_DIR" in os.environ:
            environment["CARGO_TARGET_DIR"] = os.environ["CARGO_TARGET_DIR"]
        self.bash = subprocess.Popen(
            # `-m` turns job control on, which `%1` needs.
            ["bash", "--noprofile", "--norc", "-m"],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.bash.stdout:
            self.lines.put(line.rstrip("\n"))

    def next_line(self, deadline):
        return self.lines.get(timeout=max(0.01, deadline - time.monotonic()))

    def run(self, command, expected):
        """Output of a command; of a background command, until all expected lines came."""
        closed = [port for port in PORTS if not is_open(port)]
        in_background = command.endswith("&")
        deadline = time.monotonic() + PATIENCE
        self.bash.stdin.write(f"{command}\nprintf '\\nend-of-step\\n'\n")
        self.bash.stdin.flush()
        output = []
        try:
            while (line := self.next_line(deadline)) != "end-of-step":
                output.append(line)
            while in_background and missing(expected, output):
                output.append(self.next_line(deadline))
        except queue.Empty:
            output.append(f"(not done in {PATIENCE:.0f} seconds)")
        while in_background and not any(map(is_open, closed)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if in_background or command.startswith("kill -HUP"):
            # A reader takes longer than this to type the next line, and the program writes its log line meanwhile.
            time.sleep(1)
        return output

    def end(self):
        """Ends the session, background jobs included: with job control each has a process group."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                pid = int(folder.name)
                if os.getsid(pid) == self.bash.pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.bash.wait()


def check(document):
    """Whether all steps of a document went as it says."""
    home = Path(tempfile.mkdtemp(prefix="yatagarasu-docs-"))
    shell = Shell(home)
    try:
        for command, expected in steps(document.read_text()):
            bare = re.sub(r"\s+#\s.*", "", command)
            if bare in ELSEWHERE:
                continue
            typed = f"install -D {PROGRAM} ~/.cargo/bin/yatagarasu" if bare == INSTALL else command
            output = shell.run(typed, expected)
            if wanted := missing(expected, output):
                print(f"{document}:\n$ {command}\nthis did not come:\n{wanted}\nbut:", *output, sep="\n")
                return False
            print(f"ok  $ {command.splitlines()[0]}")
        return True
    finally:
        shell.end()
        shutil.rmtree(home, ignore_errors=True)


def alone():
    """Continues in a network namespace that has only loopback."""
    prefix = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    probe = [*prefix, "true"]
    if "ALONE" not in os.environ and subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        os.execvpe("unshare", [*prefix, sys.executable, *sys.argv], {**os.environ, "ALONE": "1"})
    if "ALONE" in os.environ:
        import fcntl
        import struct

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            # SIOCSIFFLAGS with IFF_UP: loopback is down in a new namespace.
            fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1))


pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
if not all([are_quotes_exact(page) and are_links_whole(page) for page in sorted(pages)]):
    sys.exit(1)
alone()
started = time.monotonic()
if not all([check(Path(name)) for name in sys.argv[1:]]):
    sys.exit(1)
print(f"all commands ran as written, in {time.monotonic() - started:.1f} seconds")
