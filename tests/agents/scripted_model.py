"""scripted_model: an OpenAI-compatible model server that does exactly what the last question says.

Job: answer `POST /v1/chat/completions` as a stream, badly where it is asked to, and write down who asked, how far the
answer got and who hung up. May touch: one loopback port, its directory. Keeps: each line of `journal` stands on disk
before what follows from it, so a test may judge by it.

Usage: scripted_model.py DIRECTORY; prints its port. What the first word of the last line of the conversation asks for:

    hold        three pieces, then waits until DIRECTORY/release is there
    forever     a piece every 20 ms until the client leaves
    stall       three pieces, then nothing
    cut         three pieces, then the end of the stream without its end marker
    break       three pieces, then the connection is gone in the middle of a chunk
    garbage     three pieces, then one that is not JSON
    fails N     500 to the first N tries of this question
    busy        429 with `Retry-After: 1` to the first try of this question
    quick N     N pieces as fast as the connection takes them
    else        says the question back, word by word
"""

from __future__ import annotations

import collections
import http.server
import json
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

DIRECTORY = Path(sys.argv[1])
#: A test that ended without its server being ended.
LIFE_LIMIT_S = 280.0

lock = threading.Lock()
tries: collections.Counter[str] = collections.Counter()
number = 0


def note(**line: Any) -> None:
    with lock, (DIRECTORY / "journal").open("a") as journal:
        journal.write(json.dumps({"at": time.time(), **line}) + "\n")


class Left(Exception):
    """The client hung up."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        global number
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"].rpartition("\n")[2]
        with lock:
            number += 1
            tries[question] += 1
            self.number, attempt = number, tries[question]
        self.sent = 0
        note(event="asked", n=self.number, attempt=attempt, authorization=self.headers.get("Authorization"), body=body)
        try:
            self.play(question, attempt)
        except (Left, ConnectionError):
            note(event="left", n=self.number, sent=self.sent)
            self.close_connection = True
        else:
            note(event="answered", n=self.number, sent=self.sent)

    def play(self, question: str, attempt: int) -> None:
        word, _, rest = question.partition(" ")
        count = int(rest.partition(" ")[0]) if rest[:1].isdigit() else 0
        if word == "fails" and attempt <= count:
            return self.refuse(500, {})
        if word == "busy" and attempt == 1:
            return self.refuse(429, {"Retry-After": "1"})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if word == "quick":
            for at in range(count):
                self.piece(f"{at} ")
        elif word == "forever":
            while True:
                self.piece("on and ")
                self.wait(0.02)
        elif word in ("hold", "stall", "cut", "break", "garbage"):
            for piece in ("one ", "two ", "three"):
                self.piece(piece)
            if word == "hold":
                while not (DIRECTORY / "release").exists():
                    self.wait(0.01)
                self.piece(" four")
            elif word == "stall":
                self.wait(LIFE_LIMIT_S)
            elif word == "cut":
                return self.chunk(b"")
            elif word == "break":
                self.wfile.write(b"ff\r\ndata: ")
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return None
            else:
                self.chunk(b"data: {this is not JSON\n\n")
                return self.chunk(b"")
        else:
            for piece in f"You said: {question}".split(" "):
                self.piece(piece if piece == "You" else f" {piece}")
        usage = {"prompt_tokens": 7, "completion_tokens": self.sent}
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        return self.chunk(b"")

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        body = json.dumps({"error": {"message": "as the script says", "type": "scripted"}}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def piece(self, text: str) -> None:
        self.event({"model": "scripted", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        self.sent += 1

    def event(self, value: Any) -> None:
        self.chunk(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def wait(self, seconds: float) -> None:
        """Waits; raises as soon as the client leaves."""
        if select.select([self.connection], [], [], seconds)[0] and not self.connection.recv(1, socket.MSG_PEEK):
            raise Left

    def log_message(self, format: str, *arguments: Any) -> None:
        """The journal is the log."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves between two requests is no news."""


def main() -> None:
    server = Server(("127.0.0.1", 0), Answer)
    print(server.server_port, flush=True)
    threading.Timer(LIFE_LIMIT_S, server.shutdown).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
