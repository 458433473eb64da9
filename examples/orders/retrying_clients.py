"""Clients that retry by themselves, and a proxy that loses answers: each order once.

    python3 retrying_clients.py path/to/orders path/to/node/packages [path/to/place_orders]

Starts the service and, before it, a proxy that hurts the first tries of each key: it loses the
answer when the service has given it, or a part of it, or the request, or is too slow. Then urllib3,
curl and, where they are installed, others for Python and Node (more_clients.py, more_clients.mjs) and
the own clients of Java and Go (MoreClients.java, more_clients.go) place orders through it, as their own settings tell them to retry. Then `place_orders` (the example of `onlyonce-client`) places named ones, and is killed again and again while it does. In the
end the service's list has each order exactly once, and each client was told its number.
"""

import concurrent.futures
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import urllib3
from urllib3.util import Retry

URLLIB3_ORDERS = 60
CURL_ORDERS = 12
OTHER_ORDERS = 12
NODE_CLIENTS = ["got", "ky", "axios-retry", "undici"]
# The clients that ask again by themselves for an answer that breaks off in its body.
WHOLE = {"urllib3", "curl"}
NAMED_ORDERS = 40
# After how many answers place_orders is killed.
KILLS = [0, 3, 8, 15]
# How long urllib3 waits for an answer.
PATIENCE_S = 1.0
# What happens to the first tries of a key, one after the other; later ones pass.
HURTS = [
    ["lose"],
    ["lose", "lose"],
    ["half", "lose"],
    ["head", "half"],
    ["refuse", "lose"],
    ["stall", "lose", "half"],
]


class Proxy:
    """One request a connection, from its clients to the service."""

    def __init__(self, service):
        self.service = service
        self.lock = threading.Lock()
        self.tries = {}  # by key
        self.plans = {}  # by key
        self.hurts_others = False  # also keys that have no plan
        self.hurt = {}  # how often, by kind
        self.lost_orders = 0  # answers of 201 that the service gave and no client got
        self.replays = 0  # answers that came through marked
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.address = self.listener.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            with client:
                self.exchange(client)
        except OSError:
            pass  # the client has gone

    def exchange(self, client):
        request = read_message(client)
        if request is None:
            return
        kind = self.next_hurt(header(request, "idempotency-key"))
        if kind == "refuse":
            reset(client)
            return
        with socket.create_connection(self.service) as service:
            service.sendall(close_after(request))
            answer = read_message(service)
        if answer is None:
            reset(client)
            return
        answer = close_after(answer)
        with self.lock:
            if kind is not None and answer.startswith(b"HTTP/1.1 201"):
                self.lost_orders += 1
            if kind is None and header(answer, "idempotent-replayed") == "true":
                self.replays += 1
        if kind is None:
            client.sendall(answer)
        elif kind == "lose":
            reset(client)
        elif kind == "half":
            client.sendall(answer[: -len(body_of(answer)) // 2 or None])
        elif kind == "head":
            client.sendall(answer[: len(answer) - len(body_of(answer))])
        elif kind == "stall":
            time.sleep(2 * PATIENCE_S)
            reset(client)

    def next_hurt(self, key):
        with self.lock:
            nth = self.tries.get(key, 0)
            self.tries[key] = nth + 1
            if nth == 0 and key and key not in self.plans and self.hurts_others:
                self.plans[key] = HURTS[len(self.tries) % len(HURTS)]
            plan = self.plans.get(key, [])
            kind = plan[nth] if nth < len(plan) else None
            if kind is not None:
                self.hurt[kind] = self.hurt.get(kind, 0) + 1
            return kind


def read_message(stream):
    """A whole request or answer with a Content-Length; None if it ends before."""
    data = b""
    while True:
        end = data.find(b"\r\n\r\n")
        if end >= 0 and len(data) >= end + 4 + int(header(data, "content-length") or 0):
            return data
        more = stream.recv(65536)
        if not more:
            return None
        data += more


def header(message, name):
    for line in message.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.lower() == name:
            return value.strip()
    return None


def body_of(message):
    return message.split(b"\r\n\r\n", 1)[1]


def close_after(message):
    """The same with `Connection: close`."""
    head, body = message.split(b"\r\n\r\n", 1)
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join(lines + [b"Connection: close"]) + b"\r\n\r\n" + body


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class PatientRetry(Retry):
    """409 tells its Retry-After, too."""

    RETRY_AFTER_STATUS_CODES = Retry.RETRY_AFTER_STATUS_CODES | {409}


def patient_retry():
    return PatientRetry(
        total=12,
        allowed_methods=["POST"],
        status_forcelist=[409, 500, 502, 503, 504],
        backoff_factor=0.05,
    )


def by_urllib3(url, key, order):
    retry = patient_retry()
    # A pool of its own: an order is placed by a client that knows nothing of the others.
    with urllib3.PoolManager(timeout=PATIENCE_S, retries=retry) as pool:
        answer = pool.request(
            "POST", url, body=json.dumps(order), headers={"Idempotency-Key": f'"{key}"'}
        )
        return answer.status, json.loads(answer.data), 0


def by_curl(url, key, order):
    command = ["curl", "--silent", "--show-error", "--max-time", "4", "--write-out", "%{stderr}%{http_code}"]
    command += ["--retry", "8", "--retry-all-errors", "--fail", "--header", f'Idempotency-Key: "{key}"']
    with tempfile.NamedTemporaryFile() as answer:
        command += ["--output", answer.name, "--data", json.dumps(order), url]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != 0:
            raise SystemExit(f"curl gave up: {ended.stderr}")
        return int(ended.stderr[-3:]), json.load(answer), 0


def one_by_one(send):
    """Places orders all at once, each by a call of its own."""

    def send_all(url, orders):
        with concurrent.futures.ThreadPoolExecutor(max_workers=len(orders)) as threads:
            sent = [threads.submit(send, url, key, order) for key, order in orders]
            return [future.result() for future in sent]

    return send_all


def by_node(packages, name):
    """Places orders all at once by a client of Node."""

    def send_all(url, orders):
        script = os.path.join(os.path.dirname(__file__), "more_clients.mjs")
        command = ["node", script, packages, name, url, str(int(PATIENCE_S * 1000))]
        asked = json.dumps([{"key": key, "order": order} for key, order in orders])
        ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=100)
        if ended.returncode != 0:
            raise SystemExit(f"{name} gave up: {ended.stderr}")
        return [(got["status"], got["answer"], got["again"]) for got in json.loads(ended.stdout)]

    return send_all


def by_lines(program):
    """Places orders all at once by a program that reads and writes lines."""

    def send_all(url, orders):
        folder = os.path.dirname(os.path.abspath(__file__))
        command = [*program[:-1], os.path.join(folder, program[-1]), url, str(int(PATIENCE_S * 1000))]
        asked = "".join(f"{key}\t{json.dumps(order)}\n" for key, order in orders)
        ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=100)
        if ended.returncode != 0:
            raise SystemExit(f"{program[-1]} gave up: {ended.stderr}")
        told = [line.split("\t", 2) for line in ended.stdout.splitlines()]
        return [(int(status), json.loads(answer), int(again)) for status, again, answer in told]

    return send_all


def place(proxy, name, send_all, count):
    """Places orders; number of the order by item."""
    url = "http://{}:{}/orders".format(*proxy.address)
    orders = []
    for nth in range(count):
        key = str(uuid.uuid4())
        proxy.plans[f'"{key}"'] = HURTS[nth % len(HURTS)]
        # Some take longer than a client waits: their retries meet them in flight.
        delay_ms = int(1500 * PATIENCE_S) if nth % 10 == 0 else 0
        orders.append((key, {"item": f"{name} {nth}", "quantity": 1 + nth, "delay_ms": delay_ms}))
    numbers, loops = {}, 0
    for (_, order), (status, answer, again) in zip(orders, send_all(url, orders), strict=True):
        assert status == 201 and answer["item"] == order["item"], (order, status, answer)
        numbers[order["item"]] = answer["id"]
        loops += again
    print(f"{name}: {count} orders, {loops} times asked again by a loop around it")
    assert loops == 0 or name not in WHOLE, f"{name} is said to need no loop"
    return numbers


def clients(packages):
    """All that are here: name, what sends, how many orders."""
    yield "urllib3", one_by_one(by_urllib3), URLLIB3_ORDERS
    if shutil.which("curl"):
        yield "curl", one_by_one(by_curl), CURL_ORDERS
    else:
        print("no curl here")
    try:
        import more_clients
    except ImportError as missing:
        print(f"of Python only urllib3: {missing}")
    else:
        for name, send in [
            ("requests", more_clients.by_requests(PATIENCE_S, patient_retry())),
            ("httpx", more_clients.by_httpx(PATIENCE_S)),
            ("aiohttp", more_clients.by_aiohttp(PATIENCE_S)),
        ]:
            yield name, one_by_one(send), OTHER_ORDERS
    for name in NODE_CLIENTS:
        if shutil.which("node") and os.path.isdir(os.path.join(packages, "node_modules", name)):
            yield name, by_node(packages, name), OTHER_ORDERS
        else:
            print(f"no {name} here")
    # With a compiler: the programs come as their sources.
    if shutil.which("javac"):
        yield "java.net.http", by_lines(["java", "MoreClients.java"]), OTHER_ORDERS
    else:
        print("no Java here")
    if shutil.which("go"):
        yield "Go's net/http", by_lines(["go", "run", "more_clients.go"]), OTHER_ORDERS
    else:
        print("no Go here")


def place_named(proxy, program):
    """Orders whose client finds its keys again after it was killed; number of the order by item."""
    proxy.hurts_others = True
    before = len(proxy.tries)
    url = "http://{}:{}/orders".format(*proxy.address)
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        for kill_after in KILLS + [None]:
            command = [program, url, str(NAMED_ORDERS), folder]
            client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if kill_after == 0:
                # At work, with nothing answered yet.
                wait_until(lambda: len(proxy.tries) > before)
                client.kill()
            for nth, line in enumerate(client.stdout):
                if kill_after is not None and nth + 1 >= kill_after:
                    client.kill()
                if not line.endswith("\n"):
                    break  # killed in the middle of it
                item, number = line.rstrip("\n").split("\t")
                assert numbers.setdefault(item, int(number)) == int(number), "another order"
            ended = client.wait()
            assert kill_after is not None or ended == 0, ended
    assert len(numbers) == NAMED_ORDERS, numbers
    print(f"place_orders: {NAMED_ORDERS} orders, killed {len(KILLS)} times")
    return numbers


def wait_until(so):
    until = time.monotonic() + 30
    while not so():
        assert time.monotonic() < until, "nothing happened in 30 s"
        time.sleep(0.002)


def main():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.argv[1], "serve", "--listen", "127.0.0.1:0", "--dir", folder, "--create"]
        service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            check(service)
        finally:
            service.kill()
            service.wait()


def check(service):
    host, _, port = service.stdout.readline().strip().rpartition("http://")[2].partition(":")
    address = (host, int(port))
    proxy = Proxy(address)
    numbers = {}
    # All at once: they mostly wait.
    with concurrent.futures.ThreadPoolExecutor() as threads:
        placing = [threads.submit(place, proxy, *client) for client in clients(sys.argv[2])]
        for placed in placing:
            numbers |= placed.result()
    if len(sys.argv) > 3:
        numbers |= place_named(proxy, sys.argv[3])
    listed = urllib3.request("GET", "http://{}:{}/orders".format(*address)).json()
    in_service = [(order["item"], order["id"]) for order in listed]
    assert sorted(in_service) == sorted(numbers.items()), "an order is missing, or there twice"
    print(f"hurt: {proxy.hurt}; {sum(proxy.tries.values())} tries")
    print(f"{proxy.lost_orders} answers to orders were lost, {proxy.replays} replays arrived")
    # Each plan loses at least one, and is healed by a replay.
    assert proxy.lost_orders >= len(numbers) and proxy.replays >= len(numbers)
    print(f"{len(listed)} orders, each once")


if __name__ == "__main__":
    main()
