"""The one client of OpenAI-compatible endpoints, for models that judge or word things elsewhere: retries, limits, one-line errors.

Stands on the standard library. Knows no schema of ours and sends nothing but what it is given.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from PIL.Image import Image

from minimonkey.errors import EndpointError, UsageError, shown

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""HTTP codes after which the same request may succeed."""
MAX_ANSWER_BYTES = 16 * 2**20
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server asks for."""


class ChatClient:
    """Asks a model behind an address. Threads may ask at once; together they keep to the limits."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 5,
        at_once: int = 4,
        per_minute: int | None = None,
    ) -> None:
        """Args:
            base_url: up to and with the version, "http://127.0.0.1:8000/v1".
            model: the name that the server knows it by.
            api_key: sent as a bearer token; None: the environment's OPENAI_API_KEY, if there is one.
            timeout: seconds for one try.
            retries: further tries after one that failed for a while: no connection, too many requests, an error of the server.
            at_once: most requests under way.
            per_minute: most requests begun in a minute. None: any number.

        Raises:
            UsageError: no such address, or a limit that is none.
        """
        address = urlsplit(base_url) if isinstance(base_url, str) else None
        if address is None or address.scheme not in ("http", "https") or not address.hostname:
            raise UsageError(f"base_url={shown(base_url)}: expected an address such as http://127.0.0.1:8000/v1")
        limits = {"at_once": at_once, "retries": retries + 1, "per_minute": 1 if per_minute is None else per_minute}
        for name, value in limits.items():
            if type(value) is not int or value < 1:
                raise UsageError(f"{name}: expected a whole number of {0 if name == 'retries' else 1} or more")
        self.base_url, self.model, self.timeout, self.retries = base_url.rstrip("/"), model, timeout, retries
        self._key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key
        self.at_once = at_once
        self._turn = threading.BoundedSemaphore(at_once)
        self._pace = 0.0 if per_minute is None else 60.0 / per_minute
        self._next_start, self._lock = 0.0, threading.Lock()

    def ask(self, question: str, pictures: Sequence[Image] = (), *, system: str | None = None, **settings: Any) -> str:
        """The answer to one question.

        Args:
            question: what is asked.
            pictures: sent along as PNG, before the question.
            system: a system message.
            settings: further fields of the request, such as temperature=0 or max_tokens=64.

        Returns:
            The text of the first choice.

        Raises:
            EndpointError: the server can't be reached, refuses, or answers something else, after all tries.
        """
        content: Any = question
        if pictures:
            content = [{"type": "image_url", "image_url": {"url": _data_uri(picture)}} for picture in pictures]
            content.append({"type": "text", "text": question})
        messages = [] if system is None else [{"role": "system", "content": system}]
        body = {"model": self.model, "messages": [*messages, {"role": "user", "content": content}], **settings}
        answer = self._post("/chat/completions", json.dumps(body).encode())
        try:
            text = answer["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise EndpointError(f"{self.base_url} answers {shown(answer)}: expected a choice with a message of text")
        return text

    def ask_many(self, questions: Iterable[str], **settings: Any) -> list[str | EndpointError]:
        """The answer to each question, or why there is none, in their order; `at_once` of them are under way."""

        def one(question: str) -> str | EndpointError:
            try:
                return self.ask(question, **settings)
            except EndpointError as error:
                return error

        with ThreadPoolExecutor(self.at_once, "minimonkey-chat") as pool:
            return list(pool.map(one, questions))

    def _post(self, path: str, body: bytes) -> Any:
        for attempt in range(self.retries + 1):
            with self._turn:
                self._wait_for_start()
                answer, problem, pause = self._try(path, body)
            if problem is None:
                return answer
            if pause is None or attempt == self.retries:
                tries = f" (after {attempt + 1} tries)" if attempt else ""
                raise EndpointError(f"{self.base_url}{path}: {problem}{tries}")
            backoff = 0.5 * 2**attempt * (0.5 + random.random())  # those who failed together don't come back together
            time.sleep(min(max(pause, backoff), LONGEST_WAIT))
        raise AssertionError("the last try returns or raises")

    def _try(self, path: str, body: bytes) -> tuple[Any, str | None, float | None]:
        """The answer; or what is wrong, and how long to wait at least before another try, None if that is useless."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self.base_url + path, body, headers, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                data = response.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = " ".join(error.read(2000).decode(errors="replace").split())
            return None, f"HTTP {error.code} {said[:300]}".strip(), _pause(error) if error.code in AGAIN else None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            return None, f"no answer ({' '.join(str(reason).split()) or type(error).__name__})", 0.0
        if len(data) > MAX_ANSWER_BYTES:
            return None, f"an answer of more than {MAX_ANSWER_BYTES / 2**20:g} MiB", None
        try:
            return json.loads(data), None, None
        except (ValueError, RecursionError):
            return None, f"answers {shown(data[:200])}: expected JSON", None

    def _wait_for_start(self) -> None:
        """Keep to `per_minute`: starts are as far apart as that asks for."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._pace
        time.sleep(max(0.0, start - now))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever answers is who was asked: a key isn't carried elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _pause(error: urllib.error.HTTPError) -> float:
    """The seconds that the server asks for."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0


def _data_uri(picture: Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
