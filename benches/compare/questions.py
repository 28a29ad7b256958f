"""What is asked of the proxies, one function a question; each prints a table."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from contestants import HERE, OURS, SIZES, token
from machine import PATIENCE_SECONDS, Load, find, median

ROUNDS = 3
IDLE_CONNECTIONS = 10_000
SLOW_DOWNLOADS = 1_000
CONNECTIONS = {"1 KiB": 32, "64 KiB": 32, "1 MiB": 16, "64 MiB": 4}


def table(title, columns, rows):
    print(f"\n### {title}\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    sys.stdout.flush()


def connections(question):
    """How many connections a proxy must be prepared for."""
    return 2 * IDLE_CONNECTIONS if question == "idle" else 4096


def started(starts, only=None):
    """The proxies that are installed, each seen to do what is said of it."""
    proxies = [proxy for proxy in (start() for start in starts) if proxy]
    for proxy in proxies:
        base = f"http://127.0.0.1:{proxy.port}"
        expected = {proxy.url("1 KiB"): 200}
        if proxy.signs:
            expected[f"{base}/public/signed"] = 200
        if proxy.checks:
            expected[f"{base}/private/1KiB"] = 401
        for url, status in expected.items():
            if fetch(url)[0] != status:
                raise RuntimeError(f"{proxy.name}: {url} answers {fetch(url)[0]} and not {status}")
    return [proxy for proxy in proxies if not only or only.lower() in proxy.name.lower()]


def everyone(field, only=None):
    starts = [field.empty, field.yatagarasu, field.nginx, field.nginx_njs, field.haproxy, field.envoy]
    return started(starts, only)


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""


def bearer():
    return [f"Authorization: Bearer {token()}"]


def run(proxy, size, seconds, private=False):
    """One run, and what it cost: (CPU µs a request, requests a second, p50 ms, p99 ms, MiB)."""
    before = proxy.process.cpu_seconds()
    load = Load(proxy.url(size, private), CONNECTIONS[size], seconds, bearer() if private else ())
    cpu = proxy.process.cpu_seconds() - before
    # wrk counts answers that are complete; of large ones, many are under way when it ends.
    requests = load.bytes / SIZES[size] if SIZES[size] >= 2**20 else load.requests
    memory = proxy.process.memory_kib() / 1024
    return 1e6 * cpu / requests, requests / load.seconds, 1e3 * load.p50, 1e3 * load.p99, memory


def sizes(field, arguments):
    """What a request costs, by the size of the object."""
    seconds = 1 if arguments.short else 3
    proxies = everyone(field, arguments.only)
    scenarios = [(size, False) for size in SIZES]
    scenarios.insert(1, ("1 KiB", True))
    for proxy in proxies:
        run(proxy, "1 KiB", 1)
    results = {}
    # By turns, so that what else the machine does meets all alike.
    for _ in range(ROUNDS):
        for size, private in scenarios:
            for proxy in proxies:
                if proxy.checks or not private:
                    runs = results.setdefault((size, private, proxy.name), [])
                    runs.append(run(proxy, size, seconds, private))
    for size, private in scenarios:
        medians = {
            proxy: [median(values) for values in zip(*results[size, private, proxy.name])]
            for proxy in proxies
            if (size, private, proxy.name) in results
        }
        ours = next((cost[0] for proxy, cost in medians.items() if proxy.name == OURS), None)
        rows = [
            [
                proxy.name,
                ", ".join(["signs"] * proxy.signs + ["checks the token"] * private),
                f"{cpu:,.1f}" if cpu < 1000 else f"{cpu:,.0f}",
                f"{cpu / ours:.2f}" if ours else "",
                f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                f"{memory:.1f}",
            ]
            for proxy, (cpu, rate, p50, p99, memory) in medians.items()
        ]
        if rows:
            title = f"{size}, with a token (HS256)" if private else size
            columns = ["", "work", "CPU µs", "× ours", "requests/s", "p50 ms", "p99 ms", "MiB"]
            table(f"{title}; {CONNECTIONS[size]} connections", columns, rows)


def syscalls(field, arguments):
    """System calls a request, ours beside the empty proxy."""
    if not find("strace"):
        raise RuntimeError("strace is not installed")
    counts = {}
    for proxy in started([field.empty, field.yatagarasu]):
        Load(proxy.url("1 KiB"), 32, 1)
        summary = field.path("strace")
        command = ["strace", "-f", "-c", "-o", summary, "-p", str(proxy.process.pids()[0])]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        load = Load(proxy.url("1 KiB"), 32, 2)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(PATIENCE_SECONDS)
        with open(summary) as lines:
            rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", lines.read(), re.M)
        counts[proxy.name] = {name: int(calls) / load.requests for calls, name in rows}
    names = sorted(counts[OURS], key=lambda name: -counts[OURS][name])
    seen = [name for name in names if any(calls.get(name, 0) >= 0.005 for calls in counts.values())]
    rows = [[name, *(f"{calls.get(name, 0):.2f}" for calls in counts.values())] for name in seen]
    table("System calls a request; 1 KiB, 32 connections", ["", *counts], rows)


def reuse(field, arguments):
    """How many connections the store sees."""

    def store():
        status = fetch(f"http://127.0.0.1:{field.store_port}/status")[1]
        accepted, _, requests = re.search(r"(\d+) (\d+) (\d+)", status).groups()
        return int(accepted), int(requests)

    rows = []
    for proxy in everyone(field, arguments.only):
        before = store()
        Load(proxy.url("1 KiB"), 32, 1 if arguments.short else 3)
        # Without the one that asks.
        accepted, requests = (after - earlier - 1 for after, earlier in zip(store(), before))
        rows.append([proxy.name, f"{requests:,}", accepted])
    table("Connections to the store; 32 of clients", ["", "requests", "connections"], rows)


def buckets(field, arguments):
    """What a request costs, by the number of buckets; 1,000 of them are asked for by turns."""
    counts = [10, 10_000] if arguments.short else [10, 10_000, 100_000]
    proxies = {count: field.yatagarasu(buckets=count) for count in counts}
    results = {count: [] for count in counts}
    script = os.path.join(HERE, "buckets.lua")
    for _ in range(ROUNDS + 1):
        for count, proxy in proxies.items():
            before = proxy.process.cpu_seconds()
            load = Load(f"http://127.0.0.1:{proxy.port}", 32, 1 if arguments.short else 3, (), script, [count])
            results[count].append(1e6 * (proxy.process.cpu_seconds() - before) / load.requests)
    # The first run warms up: each bucket derives its signing key once a day.
    rows = [
        [f"{count:,}", f"{median(results[count][1:]):.1f}", f"{proxy.process.memory_kib() / 1024:.0f}"]
        for count, proxy in proxies.items()
    ]
    table("By the number of buckets; 1 KiB, 32 connections", ["buckets", "CPU µs", "MiB"], rows)


def ask(proxy, size, receive_buffer=None):
    """A connection on which an object was asked for."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE_SECONDS)
    client.connect(("127.0.0.1", proxy.port))
    path = proxy.url(size).split("/", 3)[3]
    client.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return client


def idle(field, arguments):
    """What a client that waits between two requests costs."""
    number = IDLE_CONNECTIONS // 10 if arguments.short else IDLE_CONNECTIONS
    rows = []
    for proxy in started([field.empty, field.yatagarasu, field.nginx, field.envoy], arguments.only):
        Load(proxy.url("1 KiB"), 32, 1)
        before = proxy.process.memory_kib()
        clients = []
        for _ in range(number):
            client = ask(proxy, "1 KiB")
            received = 0
            while received < SIZES["1 KiB"]:
                received += len(client.recv(65536))
            clients.append(client)
        after = proxy.process.memory_kib()
        rows.append([proxy.name, f"{before / 1024:.1f}", f"{after / 1024:.1f}", f"{(after - before) / number:.1f}"])
        for client in clients:
            client.close()
    table(f"{number:,} idle connections", ["", "MiB before", "MiB", "KiB each"], rows)


def slow(field, arguments):
    """What a client that reads slowly costs, with a large object."""
    number = SLOW_DOWNLOADS // 10 if arguments.short else SLOW_DOWNLOADS
    rows = []
    for proxy in everyone(field, arguments.only):
        Load(proxy.url("1 KiB"), 32, 1)
        before = proxy.process.memory_kib()
        clients = [ask(proxy, "64 MiB", receive_buffer=16384) for _ in range(number)]
        peak = before
        for _ in range(5):
            for client in clients:
                client.recv(16384)
            peak = max(peak, proxy.process.memory_kib())
        rows.append([proxy.name, f"{before / 1024:.1f}", f"{peak / 1024:.1f}", f"{(peak - before) / number:.1f}"])
        for client in clients:
            client.close()
    table(f"{number:,} slow downloads of 64 MiB", ["", "MiB before", "MiB at the peak", "KiB each"], rows)


def threads(field, arguments):
    """What a second thread costs: where nothing is shared, a request costs as much CPU as with one."""
    proxies = {
        (start.__name__, number): start(threads=number, cpus="0,1")
        for start in [field.empty, field.yatagarasu]
        for number in [1, 2]
    }
    results = {key: [] for key in proxies}
    for _ in range(ROUNDS):
        for key, proxy in proxies.items():
            results[key].append(run(proxy, "1 KiB", 1 if arguments.short else 3))
    rows = []
    for key, proxy in proxies.items():
        cpu, rate = [median(values) for values in zip(*results[key])][:2]
        rows.append([proxy.name, key[1], f"{cpu:.1f}", f"{rate:,.0f}"])
    table("Threads; 1 KiB, proxy, load and store on both CPUs", ["", "threads", "CPU µs", "requests/s"], rows)


def tail(field, arguments):
    """The latency at half of what each can do, with and without one reload a second beside it."""
    seconds = 3 if arguments.short else 8
    clients = 256
    proxies = started([field.yatagarasu, field.nginx])
    script = os.path.join(HERE, "paced.lua")
    capacity = {proxy.name: median([run(proxy, "1 KiB", 2)[1] for _ in range(ROUNDS)]) for proxy in proxies}
    runs = [(proxy, reloading) for proxy in proxies for reloading in [False, True] if proxy.signs or not reloading]
    results = {}
    for _ in range(ROUNDS):
        for proxy, reloading in runs:
            # The mean pause of a connection between an answer and its next request.
            pause = round(1000 * clients / (capacity[proxy.name] / 2))
            done = threading.Event()
            beside = threading.Thread(target=reload_every_second, args=(proxy, done))
            if reloading:
                beside.start()
            load = Load(proxy.url("1 KiB"), clients, seconds, (), script, [pause])
            done.set()
            if reloading:
                beside.join()
            rate = load.requests / load.seconds
            results.setdefault((proxy, reloading), []).append((rate, 1e3 * load.p50, 1e3 * load.p99))
    rows = []
    for (proxy, reloading), values in results.items():
        rate, p50, p99 = [median(value) for value in zip(*values)]
        share = f"{100 * rate / capacity[proxy.name]:.0f} %"
        rows.append([proxy.name, "yes" if reloading else "no", f"{rate:,.0f}", share, f"{p50:.2f}", f"{p99:.2f}"])
    columns = ["", "reloads", "requests/s", "of capacity", "p50 ms", "p99 ms"]
    table(f"At half of the capacity; 1 KiB, {clients} connections with pauses", columns, rows)


def reload_every_second(proxy, done):
    """Turns a bucket of the configuration into another one and back."""
    with open(proxy.config) as file:
        configuration = file.read()
    number = 0
    while not done.wait(1):
        number += 1
        text = configuration.replace("path_prefix: /private", f"path_prefix: /private{number % 2}")
        with open(f"{proxy.config}.next", "w") as file:
            file.write(text)
        os.rename(f"{proxy.config}.next", proxy.config)
        os.kill(proxy.process.child.pid, signal.SIGHUP)
