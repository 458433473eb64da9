"""An order service that knows nothing of retries but three headers, for the tests and as an example.

    python3 service.py PORT DATABASE

POST /orders takes an order under `Onlyonce-Derived-Key`, which is unique among orders. POST /settle says
what became of an earlier attempt, and closes the door behind it: an attempt with a lower
`Onlyonce-Token` than the one that was settled can't take the order any more. POST /mails sends a mail,
of which nothing can be found out later.
"""

import http.server
import json
import random
import sqlite3
import sys
import time

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, derived TEXT UNIQUE, item TEXT);
CREATE TABLE IF NOT EXISTS settled (derived TEXT PRIMARY KEY, token INTEGER);
CREATE TABLE IF NOT EXISTS mails (id INTEGER PRIMARY KEY, item TEXT);
"""


def connect():
    database = sqlite3.connect(DATABASE, timeout=10, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    return database


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        act = {"/orders": self.order, "/mails": self.mail, "/settle": self.settle}.get(self.path)
        if act is None:
            return self.answer(404, {"error": "no such place"})
        act(json.loads(body)["item"])

    def do_GET(self):
        orders = connect().execute("SELECT id, item FROM orders ORDER BY id").fetchall()
        self.answer(200, [{"id": id, "item": item} for id, item in orders])

    def order(self, item):
        derived, token = self.headers["Onlyonce-Derived-Key"], int(self.headers["Onlyonce-Token"])
        time.sleep(random.uniform(0, 0.03))  # so that a kill can fall on either side
        database = connect()
        database.execute("BEGIN IMMEDIATE")
        newer = database.execute("SELECT token FROM settled WHERE derived = ?", [derived]).fetchone()
        if newer is not None and newer[0] > token:
            database.execute("ROLLBACK")
            return self.answer(409, {"error": "this attempt was given up"}, ("Onlyonce-Verdict", "unknown"))
        made = database.execute("INSERT INTO orders (derived, item) VALUES (?, ?)", [derived, item])
        database.execute("COMMIT")
        time.sleep(random.uniform(0, 0.03))
        self.answer(201, {"id": made.lastrowid, "item": item})

    def settle(self, item):
        if self.headers["Onlyonce-Path"] != "/orders":
            return self.answer(200, {}, ("Onlyonce-Settled", "unknown"))
        derived, token = self.headers["Onlyonce-Derived-Key"], int(self.headers["Onlyonce-Token"])
        database = connect()
        database.execute("BEGIN IMMEDIATE")
        made = database.execute("SELECT id FROM orders WHERE derived = ?", [derived]).fetchone()
        if made is None:
            database.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", [derived, token])
        database.execute("COMMIT")
        if made is None:
            return self.answer(200, {}, ("Onlyonce-Settled", "nothing-happened"))
        self.answer(201, {"id": made[0], "item": item}, ("Onlyonce-Settled", "happened"))

    def mail(self, item):
        time.sleep(random.uniform(0, 0.03))
        connect().execute("INSERT INTO mails (item) VALUES (?)", [item])
        time.sleep(random.uniform(0, 0.03))
        self.answer(202, {"item": item})

    def answer(self, status, value, *headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", len(body)), *headers):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    DATABASE = sys.argv[2]
    connect().executescript(SCHEMA)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that has gone
    print("ready", flush=True)
    server.serve_forever()
