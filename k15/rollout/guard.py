"""ASGI middleware that demands the job's bearer token on every route of a vLLM server but `/health`.

vLLM's own `--api-key` covers only paths under /v1, /v2, /inference and /cohere: with VLLM_SERVER_DEV_MODE=1 the
routes /collective_rpc, /pause, /update_weights and so on would be open to every user of the node, and
/collective_rpc runs methods of the worker. This class is loaded by vLLM through `--middleware`; it wraps all others.
"""

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TOKEN_ENV = "K15_ENGINE_TOKEN"
"""The token travels in the environment: an argv can be read by every user of the node, an environ only by its owner."""

OPEN_PATHS = frozenset({"/health"})


class BearerGuard:
    """Answers 401 to an http or websocket request without `Authorization: Bearer $K15_ENGINE_TOKEN`.

    Raises RuntimeError at start when the variable is missing or short, so that no server ever runs unguarded.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        token = os.environ.get(TOKEN_ENV, "")
        if len(token) < 16:
            raise RuntimeError(f"{TOKEN_ENV} has {len(token)} characters; an engine needs a token of 16 or more")
        self.app = app
        self.expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if hmac.compare_digest(given, self.expected):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # the protocol wants `connect` read before it can be refused
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error":"missing or wrong bearer token"}'})
