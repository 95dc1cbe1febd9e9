"""The client asks servers that answer, refuse, stumble and lie; each on loopback, each seen from both sides."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from minimonkey.errors import EndpointError, UsageError
from minimonkey.jobs import chat_client
from minimonkey.jobs.chat_client import ChatClient


class Server(ThreadingHTTPServer):
    """Answers with what is in `script`, the last of it for ever: (code, body, headers)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = [(200, said("fine"), {})]
        self.requests, self.paths, self.keys, self.under_way, self.most = [], [], [], 0, 0
        self.seconds = 0.0
        self.lock = threading.Lock()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.requests.append(json.loads(body))
            server.paths.append(self.path)
            server.keys.append(self.headers["Authorization"])
            server.under_way += 1
            server.most = max(server.most, server.under_way)
            code, text, headers = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        time.sleep(server.seconds)
        with server.lock:
            server.under_way -= 1
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, *_):
        pass


def said(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def slept(monkeypatch):
    """Seconds that were waited between two tries; nobody waits."""
    found = []
    monkeypatch.setattr(chat_client.time, "sleep", lambda seconds: found.append(seconds) if seconds else None)
    return found


def test_what_is_asked_and_answered(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    client = ChatClient(server.address + "/", "judge")
    assert client.ask("Is it right?", system="Be strict.", temperature=0, max_tokens=5) == "fine"
    assert server.paths == ["/v1/chat/completions"]
    assert server.keys == ["Bearer secret"]
    messages = [{"role": "system", "content": "Be strict."}, {"role": "user", "content": "Is it right?"}]
    assert server.requests == [{"model": "judge", "messages": messages, "temperature": 0, "max_tokens": 5}]


def test_pictures_are_sent_along(server):
    picture = Image.linear_gradient("L").resize((9, 8)).convert("RGB")
    ChatClient(server.address, "judge", api_key="").ask("What is it?", [picture])
    ((image, text),) = [message["content"] for message in server.requests[0]["messages"]]
    assert text == {"type": "text", "text": "What is it?"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert sent.tobytes() == picture.tobytes()
    assert server.keys == [None], "no key, no header"


def test_tries_again_after_what_may_pass(server, slept):
    busy, wait = (429, b"slow down", {"Retry-After": "7"}), (500, b"", {"Retry-After": "Wed"})
    server.script = [(503, b"loading", {}), busy, wait, *server.script]
    assert ChatClient(server.address, "judge").ask("?") == "fine"
    assert len(server.requests) == 4
    assert len(slept) == 3 and slept[1] == 7.0 and 0.2 < slept[0] < 0.8


def test_waits_are_bounded(server, slept):
    server.script = [(429, b"", {"Retry-After": "86400"}), *server.script]
    ChatClient(server.address, "judge").ask("?")
    assert slept == [chat_client.LONGEST_WAIT]


def line_of(client, *arguments):
    with pytest.raises(EndpointError) as error:
        client.ask(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_gives_up(server, slept):
    server.script = [(500, b"broken\ninside", {})]
    message = line_of(ChatClient(server.address, "judge", retries=2), "?")
    assert message == f"{server.address}/chat/completions: HTTP 500 broken inside (after 3 tries)"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, b"no such model", {}), "HTTP 400 no such model"),
        ((401, b"", {}), "HTTP 401"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
        ((200, b"<html>", {}), "answers b'<html>': expected JSON"),
        ((200, b"[" * 100_000, {}), "expected JSON"),
        ((200, b"{}", {}), "answers {}: expected a choice with a message of text"),
        ((200, b'{"choices": []}', {}), "expected a choice with a message of text"),
        ((200, b'{"choices": [{"message": {"content": null}}]}', {}), "expected a choice with a message of text"),
        ((200, b"[]", {}), "expected a choice with a message of text"),
    ],
)
def test_what_is_no_answer(server, slept, answer, message):
    """It isn't asked for again: it would be the same."""
    server.script = [answer]
    assert message in line_of(ChatClient(server.address, "judge"), "?")
    assert (len(server.requests), slept) == (1, [])


def test_an_answer_without_end(server, monkeypatch):
    monkeypatch.setattr(chat_client, "MAX_ANSWER_BYTES", 100)
    server.script = [(200, said("x" * 200), {})]
    assert "an answer of more than" in line_of(ChatClient(server.address, "judge"), "?")


def test_nobody_there(slept):
    with Server() as server:
        address = server.address
    message = line_of(ChatClient(address, "judge", retries=1), "?")
    assert message.startswith(f"{address}/chat/completions: no answer (") and message.endswith("(after 2 tries)")


def test_a_server_that_takes_too_long(server, slept):
    server.seconds = 0.0
    release = threading.Event()
    original = Handler.do_POST
    Handler.do_POST = lambda self: release.wait(10)
    try:
        assert "no answer (" in line_of(ChatClient(server.address, "judge", timeout=0.2, retries=0), "?")
    finally:
        release.set()
        Handler.do_POST = original


def test_many_at_once_keep_to_the_limit(server):
    server.seconds = 0.05
    server.script = [(200, said(str(number)), {}) for number in range(11)] + [(400, b"no", {})]
    found = ChatClient(server.address, "judge", at_once=3).ask_many(f"{number}?" for number in range(12))
    assert sorted(str(answer) for answer in found if isinstance(answer, str)) == sorted(map(str, range(11)))
    assert [type(answer) for answer in found].count(EndpointError) == 1
    assert 2 <= server.most <= 3


def test_no_more_in_a_minute(server, slept):
    client = ChatClient(server.address, "judge", per_minute=120)
    begun = time.monotonic()
    client.ask_many(["?"] * 5)
    waits = sorted(slept)
    assert time.monotonic() - begun < 5
    assert [round(wait, 1) for wait in waits] == [0.5, 1.0, 1.5, 2.0], "starts are half a second apart"


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http://", None, 5])
def test_what_is_no_address(address):
    with pytest.raises(UsageError, match="expected an address such as"):
        ChatClient(address, "judge")


@pytest.mark.parametrize("limit", [{"at_once": 0}, {"retries": -1}, {"per_minute": 0}, {"at_once": 1.5}])
def test_what_is_no_limit(limit):
    with pytest.raises(UsageError, match=next(iter(limit))):
        ChatClient("http://127.0.0.1/v1", "judge", **limit)
