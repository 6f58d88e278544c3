"""The agent's HTTP interface as one table: the routes that it serves, what it demands of a request, and its OpenAPI document."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from k15.errors import ConfigError, unknown_name

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "array": list, "object": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A field of a request's JSON body. `type`: one of TYPES; `needed`: it must be there and not null."""

    type: str
    meaning: str
    needed: bool = True


@dataclass(frozen=True)
class Route:
    """`handler`: the method of Agent that serves it. `answer`: what a 200 holds; `content`: its type."""

    method: str
    path: str
    handler: str
    summary: str
    answer: str
    body: Mapping[str, Value] = field(default_factory=dict)
    content: str = "application/json"


NAME = {"name": Value("string", "of the process; logs and later calls use it")}
VERSION = {"version": Value("integer", "weight version, as registered in the metadata service")}

ROUTES: tuple[Route, ...] = (
    Route("GET", "/openapi.json", "openapi", "this document", "OpenAPI 3.1"),
    Route("GET", "/health", "health", "identity of the node", "node_rank, host, address"),
    Route("GET", "/metrics", "metrics", "processes, restarts, versions, bytes, seconds", "Prometheus text", content="text/plain"),
    Route("GET", "/ports", "ports", "a port that is free now", "port, interface"),
    Route("GET", "/processes", "processes", "all children", "a list of: name, pid, alive, returncode, log, started, starts"),
    Route(
        "POST", "/processes", "start_process", "start a child; an ended one of the same name is replaced", "as in /processes",
        NAME | {
            "module": Value("string", "run as `python -P -m MODULE`; known ones only"),
            "args": Value("array", "its words", needed=False),
            "env": Value("object", "added to the agent's environment", needed=False),
            "devices": Value("array", "positions in the node's list of CUDA devices; null: all", needed=False),
            "url": Value("string", "where an engine will listen; sleep, wake and update need it", needed=False),
        },
    ),
    Route("GET", "/processes/{name}/log", "process_log", "the last lines of its log", "tail"),
    Route(
        "DELETE", "/processes/{name}", "stop_process",
        "stop it with its whole group: SIGTERM, after ?grace_s seconds SIGKILL", "as in /processes",
    ),
    Route("POST", "/engines/{name}/sleep", "engine_sleep", "free its device memory (vLLM's sleep, level 1)", "{}"),
    Route("POST", "/engines/{name}/wake", "engine_wake", "undo sleep", "{}"),
    Route(
        "POST", "/engines/{name}/update", "engine_update", "pull what is missing of a version here, and load it in place",
        "seconds: pull_s, pause_s, check_s, load_s, reset_s, total_s; bytes", VERSION,
    ),
    Route("GET", "/versions", "versions", "weight versions on this node", "segments: bytes by version; engines: version by name"),
    Route(
        "POST", "/weights/pull", "pull_weights", "make all segments of a version local",
        "paths of the segment files, bytes_pulled from peers", VERSION,
    ),
    Route(
        "POST", "/weights/collect", "collect_weights", "drop other versions", "kept",
        {"keep": Value("array", "versions")},
    ),
    Route(
        "GET", "/weights/{file}", "weights_file", "a segment or manifest of this node, for peers", "its bytes",
        content="application/octet-stream",
    ),
    Route("POST", "/shutdown", "end", "stop the children and end, leaving nothing behind; ?again=1: the job is requeued", "ok"),
)  # fmt: skip


def read_body(route: Route, body: object) -> dict:
    """The fields that `route` knows, null where they were left out. Raises ConfigError for a body that does not fit."""
    where = f"the body of {route.method} {route.path}"
    if not isinstance(body, dict):
        raise ConfigError(f"{where} is {str(body)[:80]!r}; it must be a JSON object with {', '.join(route.body)}.")
    for name in body:
        if name not in route.body:
            raise unknown_name(f"a field of {where}", name, route.body)
    read = {}
    for name, value in route.body.items():
        given = read[name] = body.get(name)
        if given is None and value.needed:
            raise ConfigError(f"{where} has no {name!r} ({value.meaning}). Fields: {', '.join(route.body)}.")
        if given is not None and (not isinstance(given, TYPES[value.type]) or isinstance(given, bool)):
            raise ConfigError(f"{name!r} in {where} is {str(given)[:80]!r}; it must be of JSON type {value.type}.")
    return read


def openapi(url: str) -> dict:
    """The OpenAPI document of ROUTES, as served at `url`."""
    paths: dict[str, dict] = {}
    for route in ROUTES:
        operation: dict[str, object] = {
            "operationId": route.handler,
            "summary": route.summary,
            "responses": {
                "200": {"description": route.answer, "content": {route.content: {}}},
                "400": {"description": "the request does not fit this document"},
                "401": {"description": "the bearer token of this job is missing or wrong"},
                "409": {"description": "it could not be done: {error, kind}"},
            },
        }
        names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
        if names:
            schema = {"schema": {"type": "string"}}
            operation["parameters"] = [{"name": n, "in": "path", "required": True, **schema} for n in names]
        if route.body:
            fields = {n: {"type": v.type, "description": v.meaning} for n, v in route.body.items()}
            needed = [n for n, v in route.body.items() if v.needed]
            schema = {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "k15 agent", "version": "1", "description": "One node of a job: its processes, engines and weights."},
        "servers": [{"url": url}],
        "security": [{"bearer": []}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }
