"""JSON over HTTP for the commands that talk to a running engine; the standard library is enough.

An answer is a value whatever its status; only an engine that cannot be reached, or that does not
speak HTTP, raises. Nothing is retried here: whoever calls knows whether that is safe.
"""

import http.client
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

TIMEOUT_SECONDS: Final = 70.0
"""Longer than the engine takes to refuse what it cannot do in time."""
_JSON: Final = ("application/json", "application/problem+json")


class UnreachableError(Exception):
    """No engine answers at this address; says why."""


class Reply(NamedTuple):
    """`body` is decoded if it is JSON, else text."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def refusal(self) -> str:
        """Why it was refused, in one line."""
        if not isinstance(self.body, dict):
            return f"HTTP {self.status}"
        lines = "; ".join(
            f"{line['sku']}: {line['requested']} wanted, {line['available']} available"
            for line in self.body.get("lines") or ()
        )
        title = self.body.get("title", f"HTTP {self.status}")
        return f"{title} ({self.body.get('code')}): {lines or self.body.get('detail', '')}"


class HttpClient:
    """Talks to the engine at `url`, under `key` if one is given."""

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL of an engine; http://127.0.0.1:8080 is one")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.hostname
        self._connect = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._port = parts.port
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str, **query: str | int | None) -> Reply:
        return self.call("GET", path_with(path, query))

    def post(self, path: str, body: Any = None, **query: str | int | None) -> Reply:
        return self.call("POST", path_with(path, query), body)

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request with a JSON body, or with none."""
        sent = dict(headers or {})
        payload = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        return self.send(method, path, payload, sent)

    def send(
        self,
        method: str,
        path: str,
        payload: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str],
    ) -> Reply:
        """One request. A payload that comes in pieces is streamed."""
        connection = self._connect(self.host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, payload, {**self._headers, **headers})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"no engine answers at {self.url}: {reason}") from error
        finally:
            connection.close()
        media = answer.headers.get_content_type()
        text = data.decode(errors="replace")
        return Reply(answer.status, json.loads(text) if media in _JSON and text else text)


def path_with(path: str, query: Mapping[str, str | int | None]) -> str:
    """`path` with the parts of the query that are there."""
    given = "&".join(
        f"{name}={quote(str(value), safe='')}" for name, value in query.items() if value is not None
    )
    return f"{path}?{given}" if given else path
