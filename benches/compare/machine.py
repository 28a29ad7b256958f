"""Processes, and what the kernel and the load generator say of them. Knows no proxy."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

# What is measured has a CPU of its own; everything that only serves to measure shares the other.
PROXY_CPUS, LOAD_CPU = "0", "1"
PATIENCE_SECONDS = 30


def find(program, variable=None):
    """The path of a program, if it is installed."""
    return shutil.which(os.environ.get(variable or "", "") or program)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A program with all that it starts, on certain CPUs; what it prints goes to a file."""

    def __init__(self, command, log, cpus=PROXY_CPUS, environment=None):
        self.name = os.path.basename(command[0])
        self.log = log
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                ["taskset", "-c", cpus, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )

    def wait_for(self, port):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        with open(self.log, errors="replace") as log:
            raise RuntimeError(f"{self.name} does not listen on {port}:\n{log.read()[-2000:]}")

    def pids(self):
        """The child and its descendants."""
        found, unseen = [], [self.child.pid]
        while unseen:
            pid = unseen.pop()
            found.append(pid)
            for task in _listed(f"/proc/{pid}/task"):
                unseen += [int(child) for child in _read(f"/proc/{pid}/task/{task}/children").split()]
        return found

    def cpu_seconds(self):
        """On a CPU, in user and kernel mode, by the scheduler's own account of every thread."""
        threads = [(pid, task) for pid in self.pids() for task in _listed(f"/proc/{pid}/task")]
        texts = [_read(f"/proc/{pid}/task/{task}/schedstat") for pid, task in threads]
        return sum(int(text.split()[0]) for text in texts if text) / 1e9

    def memory_kib(self):
        """The sum of the proportional set sizes: RSS, with what processes share counted once."""
        texts = [_read(f"/proc/{pid}/smaps_rollup") for pid in self.pids()]
        return sum(int(size) for text in texts for size in re.findall(r"^Pss: +(\d+)", text, re.M))

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                for pid in self.pids():
                    os.kill(pid, signal.SIGKILL)
                self.child.wait()


def _read(path):
    # A thread or a process may have ended since it was listed.
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _listed(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


class Load:
    """What wrk says of one run."""

    def __init__(self, url, connections, seconds, headers=(), script=None, arguments=()):
        command = ["taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        command += ["--latency", "--timeout", "30s"]
        for header in headers:
            command += ["-H", header]
        if script:
            command += ["-s", script]
        command += [url, *(["--", *map(str, arguments)] if arguments else [])]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
        text = ran.stdout
        failed = re.search(r"Socket errors: .*|Non-2xx or 3xx responses: .*", text)
        if failed:
            raise RuntimeError(f"{url}: {failed[0]}")
        requests, duration, read = re.search(r"(\d+) requests in ([\d.]+\w+), ([\d.]+\w+) read", text).groups()
        self.requests = int(requests)
        self.seconds = _amount(duration)
        self.bytes = _amount(read)
        self.p50 = _amount(re.search(r"50% +([\d.]+\w+)", text)[1])
        self.p99 = _amount(re.search(r"99% +([\d.]+\w+)", text)[1])


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}


def _amount(text):
    """`365.00us` in seconds, `1.21GB` in bytes."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]+)", text).groups()
    return float(number) * _UNITS[unit]


def median(values):
    values = sorted(values)
    return values[len(values) // 2]


def describe():
    """The machine, without its name and the date."""
    model = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    memory = int(re.search(r"MemTotal: +(\d+)", _read("/proc/meminfo"))[1]) / 2**20
    kernel = ".".join(os.uname().release.split(".")[:2])
    return f"{os.cpu_count()} CPUs ({model[1] if model else os.uname().machine}), {memory:.0f} GiB, Linux {kernel}"
