"""Storms a Python service behind the gateway: answers are lost, gateway and service are killed with
SIGKILL while requests run. Each order is taken once, and each mail is sent at most once: where its
request has no answer, its key is interrupted.

    python3 storm.py path/to/onlyonce-gateway
"""

import http.client
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid

ORDERS = 150
MAILS = 40
CLIENTS = 16
KILLS = 6
# In the whole, before the test says that something hangs.
PATIENCE_S = 90
HERE = os.path.dirname(os.path.abspath(__file__))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Process:
    """A program that is killed and started again at the same port."""

    def __init__(self, *command):
        self.command = command
        self.running = None
        self.start()

    def start(self):
        self.running = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        if not self.running.stdout.readline():
            self.kill()
            raise SystemExit(f"{self.command[0]} did not start")

    def kill(self):
        self.running.kill()
        self.running.wait()
        self.running.stdout.close()


class Client:
    """Sends each request until it has an answer, and sometimes hangs up before it comes."""

    def __init__(self, port, seed, until):
        self.port, self.random, self.until = port, random.Random(seed), until

    def place(self, path, item, done):
        key, tries = str(uuid.uuid4()), 0
        while True:
            tries += 1
            assert time.monotonic() < self.until, f"{item}: no answer after {tries} tries"
            hangs_up = tries == 1 and self.random.random() < 0.4
            try:
                status, answer, replayed = self.send(path, key, item, hangs_up)
            except (OSError, http.client.HTTPException):
                status, answer, replayed = None, None, False
            if status in (201, 202):
                return status, answer
            # An interrupted key answers 409, or the 502 that its request ended with, again and again.
            interrupted = (answer or {}).get("type", "").endswith(":interrupted") or (replayed and status >= 500)
            if path == "/mails" and interrupted:
                return status, answer
            # An order is settled when it is asked for again.
            time.sleep(self.random.uniform(0.01, 0.1))

    def send(self, path, key, item, hangs_up):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Idempotency-Key": f'"{key}"', "X-Account": "ann"}
            connection.request("POST", path, json.dumps({"item": item}), headers)
            if hangs_up:
                time.sleep(self.random.uniform(0, 0.02))
                return None, None, False
            answer = connection.getresponse()
            body = answer.read()
            replayed = answer.getheader("Idempotent-Replayed") == "true"
            return answer.status, json.loads(body) if body else None, replayed
        finally:
            connection.close()


def main():
    with tempfile.TemporaryDirectory() as folder:
        database = os.path.join(folder, "orders.db")
        port, behind, managing = free_port(), free_port(), free_port()
        service = gateway = None
        gateway_command = [
            sys.argv[1], "--listen", f"127.0.0.1:{port}", "--upstream", f"http://127.0.0.1:{behind}",
            "--manage", f"127.0.0.1:{managing}", "--scope-header", "x-account", "--create",
            "--settle", f"http://127.0.0.1:{behind}/settle", "--dir", os.path.join(folder, "keys"),
            "--max-attempts", "1000", "--upstream-timeout", "5", "--admin-token", "secret",
        ]
        try:
            service = Process(sys.executable, os.path.join(HERE, "service.py"), str(behind), database)
            gateway = Process(*gateway_command)
            storm(port, service, gateway, database)
            look(port, managing)
        finally:
            for process in (gateway, service):
                if process is not None:
                    process.kill()


def storm(port, service, gateway, database):
    until = time.monotonic() + PATIENCE_S
    wanted = [("/orders", f"order {nth}") for nth in range(ORDERS)]
    wanted += [("/mails", f"mail {nth}") for nth in range(MAILS)]
    random.Random(1).shuffle(wanted)
    lock, answers, failures = threading.Lock(), {}, []

    def work(seed):
        client = Client(port, seed, until)
        while True:
            with lock:
                if not wanted or failures:
                    return
                path, item = wanted.pop()
            try:
                got = client.place(path, item, answers)
                with lock:
                    answers[item] = got
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for nth in range(KILLS):
        # While there is work: at the same places in it, whatever the machine's speed.
        goal = (nth + 1) * (ORDERS + MAILS) // (KILLS + 2)
        while len(answers) < goal and not failures:
            time.sleep(0.005)
        victim = gateway if nth % 2 == 0 else service
        victim.kill()
        victim.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    check(answers, sqlite3.connect(database))


def check(answers, database):
    orders = database.execute("SELECT item, id FROM orders").fetchall()
    told = {item: answer["id"] for item, (_, answer) in answers.items() if item.startswith("order")}
    assert len(orders) == len(told) == ORDERS and dict(orders) == told, "an order is missing, or there twice"
    mails = [item for (item,) in database.execute("SELECT item FROM mails")]
    assert len(mails) == len(set(mails)), "a mail was sent twice"
    sent = [item for item, (status, _) in answers.items() if status == 202]
    assert set(sent) <= set(mails), "a mail was acknowledged and not sent"
    interrupted = MAILS - len(sent)
    print(f"{ORDERS} orders, each once; {len(sent)} mails sent, {interrupted} interrupted; {KILLS} kills")


def look(port, managing):
    def get(port, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    assert len(json.loads(get(port, "/orders")[1])) == ORDERS  # passes without a key
    assert get(managing, "/health") == (200, "ok\n")
    assert "onlyonce_http_requests_total" in get(managing, "/metrics")[1]
    assert get(managing, "/admin/")[0] == 401
    assert get(managing, "/admin/api/health", Authorization="Bearer secret")[0] == 200
    assert get(managing, "/elsewhere")[0] == 404


if __name__ == "__main__":
    main()
