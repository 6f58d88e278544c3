"""Tasks that lm-eval (EleutherAI's harness, an optional package) has: run by it as a subprocess against our endpoints.

    lm_eval:mmlu, lm_eval:ifeval, lm_eval:ceval-valid, ...      `lm-eval ls tasks` lists them; lm_eval.include_path adds your own

Its numbers are taken from its own output files. GSM8K's tasks read the user's data folder where it has them; others are loaded
from the hub by lm-eval itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15 import child
from k15.config.eval import LmEvalConfig
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import ConfigError, DataError, EngineError
from k15.eval.estimates import of_values
from k15.eval.results import Result
from k15.log.files import atomic_write

INSTALL = "pip install 'lm-eval[ifeval]==0.4.13', here or in an environment of its own that lm_eval.python=<its python> names"
MAX_TOKENS = 256  # of an answer, where neither task nor user say: lm-eval's own default
LOCAL = {"gsm8k": "gsm8k"}  # task prefix -> folder of the data folder with train.jsonl and test.jsonl
OTHER_DATA = ("gsm8k_platinum",)  # prefixes of tasks that are named alike, on other problems
_SUFFIX = "_local"
_FIND = (
    "from importlib.util import find_spec; s = find_spec('lm_eval'); print(s.origin) if s else exit(1)"  # importing it takes long
)


@dataclass(frozen=True, slots=True)
class Target:
    """What lm-eval speaks to. `urls` end in /v1, the first is used (lm-eval knows one). `tokenizer`: a folder, or None."""

    url: str
    model: str
    key: str | None
    api: str
    tokenizer: str | None
    max_context: int
    chat: bool


def python(cfg: LmEvalConfig) -> str:
    """The interpreter that has lm-eval. Raises ConfigError where it has not."""
    name = cfg.python if cfg.python is not None else sys.executable
    try:
        done = subprocess.run([name, "-P", "-c", _FIND], capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(f"lm_eval.python is {name!r}, which cannot be run ({error.strerror}).") from error
    if done.returncode != 0:
        raise ConfigError(f"{name} has no lm-eval. Install it: {INSTALL}.")
    return name


def _folder(cfg: LmEvalConfig) -> Path:
    """Where lm-eval is installed."""
    done = subprocess.run([python(cfg), "-P", "-c", _FIND], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).parent


def finished(out: Path, settings: Mapping[str, object]) -> bool:
    """Whether lm-eval has ended well in this folder. Raises ConfigError where it was started there with other settings."""
    path = out / "started.json"
    if path.is_file() and (before := json.loads(path.read_text())) != settings:
        changed = ", ".join(k for k in settings if before.get(k) != settings[k])
        raise ConfigError(f"{out} is of a run with other settings ({changed}). Give another run_dir=, or the settings of before.")
    return _newest(out) is not None


def run(
    cfg: LmEvalConfig, task: str, target: Target, out: Path, settings: Mapping[str, object], data: Path | None, at_once: int
) -> None:
    """Run `task` as `settings` (its `limit`, `seed`, `num_fewshot`, `max_tokens`) say; its output goes to `out`.

    Responses are kept in a cache there, so that a run that was killed goes on. Raises EngineError with the end of its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    name, include = _local(cfg, task, data, out)
    words = command(cfg, name, target, out, include, settings, at_once)
    atomic_write(out / "started.json", (json.dumps(dict(settings)) + "\n").encode())
    log = out / "lm_eval.log"
    with log.open("wb") as said:
        env = os.environ | ({"OPENAI_API_KEY": target.key} if target.key is not None else {})
        code = subprocess.run(words, stdout=said, stderr=said, env=env, preexec_fn=child.prepare).returncode
    if code != 0 or _newest(out) is None:
        tail = "\n".join(log.read_text(errors="replace").strip().split("\n")[-12:])
        raise EngineError(f"lm-eval ended with status {code} in {name} ({log}):\n{tail}")


def command(
    cfg: LmEvalConfig, task: str, target: Target, out: Path, include: Sequence[Path], settings: Mapping[str, object], at_once: int
) -> list[str]:
    """The words of the subprocess. The key is in the environment, which other users cannot read."""
    model = {
        "model": target.model, "base_url": target.url + ("/chat/completions" if target.api == "chat" else "/completions"),
        "num_concurrent": at_once, "max_length": target.max_context, "max_gen_toks": settings["max_tokens"], "max_retries": 3,
        "timeout": 3600,
    }  # fmt: skip
    if target.tokenizer is not None:
        # Special tokens as the tokenizer itself adds them, which is how k15 asks.
        model |= {"tokenizer": target.tokenizer, "tokenizer_backend": "huggingface", "add_bos_token": not target.chat}
    else:
        model["tokenizer_backend"] = "none"
    kind = "local-chat-completions" if target.api == "chat" else "local-completions"
    words = [python(cfg), "-m", "lm_eval", "run", "--model", kind, "--tasks", task, "--output_path", str(out), "--log_samples",
             "--model_args", ",".join(f"{k}={v}" for k, v in model.items()), "--seed", str(settings["seed"]),
             "--use_cache", str(out / "cache")]  # fmt: skip
    for name in ("limit", "num_fewshot"):
        words += [f"--{name}", str(settings[name])] if settings[name] is not None else []
    for folder in include:
        words += ["--include_path", str(folder)]
    return words + (["--apply_chat_template"] if target.chat or target.api == "chat" else [])


def _local(cfg: LmEvalConfig, task: str, data: Path | None, out: Path) -> tuple[str, list[Path]]:
    """(the task's name, folders with task files): a task on the user's own copy of its data, where there is one."""
    include = [Path(cfg.include_path)] if cfg.include_path is not None else []
    folder = next((f for prefix, f in LOCAL.items() if task.startswith(prefix) and not task.startswith(OTHER_DATA)), None)
    files = {} if data is None or folder is None else {s: data / folder / f"{s}.jsonl" for s in ("train", "test")}
    if not files or not all(f.is_file() for f in files.values()):
        return task, include
    where = _definition(_folder(cfg) / "tasks", task)
    if where is None or any(_definition(f, task) for f in include):  # the user's own task reads what it says itself
        return task, include
    own = out / "tasks"
    own.mkdir(exist_ok=True)
    lines = [f"include: {where}", f"task: {task}{_SUFFIX}", "dataset_path: json", "dataset_name: null"]
    lines += ["dataset_kwargs:", "  data_files:", *(f"    {s}: {f.absolute()}" for s, f in files.items())]
    (own / f"{task}{_SUFFIX}.yaml").write_text("\n".join(lines) + "\n")
    return task + _SUFFIX, [*include, own]


def _definition(folder: Path, task: str) -> Path | None:
    """The file below `folder` that defines a task; None where there is none of that name."""
    for path in sorted(folder.glob("**/*.yaml")):
        if f"task: {task}\n" in path.read_text():
            return path
    return None


def _newest(out: Path) -> Path | None:
    """lm-eval's results file, which it writes when all is done."""
    found = sorted(out.glob("**/results_*.json"))
    return found[-1] if found else None


def numbers(out: Path) -> list[Result]:
    """The numbers in the folder of a finished `run`: a result a task (or group) and metric. Raises DataError where there is none.

    Mean tokens are of the responses as texts, their end counted: lm-eval keeps neither how many were sampled nor which were
    cut off.
    """
    path = _newest(out)
    if path is None:
        raise DataError(f"{out} holds no results of lm-eval; run it without score_only.")
    body, found = json.loads(path.read_text()), []
    started = json.loads((out / "started.json").read_text())
    folder = started["tokenizer"]
    tokenizer = load_tokenizer(folder) if folder is not None and Path(folder).is_dir() else None
    stamp = path.stem.removeprefix("results_")
    for task, metrics in body["results"].items():
        samples = _samples(path.parent / f"samples_{task}_{stamp}.jsonl")
        kwargs = body.get("configs", {}).get(task, {}).get("generation_kwargs") or {}
        version, shots = body.get("lm_eval_version"), body.get("n-shot", {}).get(task, 0)
        for key, value in metrics.items():
            metric, _, which = key.partition(",")
            if isinstance(value, bool) or not isinstance(value, int | float) or metric.endswith("_stderr") or not which:
                continue
            mine = [s for s in samples if s.get("filter", "none") == which]
            shown = {**_ASKED, **_asked(kwargs, started, mine, tokenizer)} if kwargs else _ASKED
            found.append(
                {
                    "task": f"lm_eval:{task.removesuffix(_SUFFIX)}", "metric": metric if which == "none" else f"{metric},{which}",
                    "value": float(value), **_interval(float(value), metrics.get(f"{metric}_stderr,{which}"), metric, mine),
                    "problems": len(mine) if mine else body.get("n-samples", {}).get(task, {}).get("effective"), **shown,
                    "seed": started["seed"], "prompt": "lm-eval's", "chat": started["chat"], "model": started["model"],
                    "template": f"lm-eval {version}, {shots}-shot",
                }
            )  # fmt: skip
    if not found:
        raise DataError(f"{path} holds no number.")
    return found


_ASKED = {"samples": 1, "temperature": None, "top_p": None, "max_tokens": None, "mean_tokens": None, "truncated": None}
"""Of tasks that compare likelihoods: nothing is sampled."""


def _asked(
    kwargs: Mapping[str, Any], started: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], tokenizer: TextTokenizer | None
) -> dict[str, Any]:
    """How lm-eval sampled, by the task's `generation_kwargs`."""
    return {
        "temperature": float(kwargs.get("temperature", 0.0)), "top_p": float(kwargs.get("top_p", 1.0)),
        "max_tokens": kwargs.get("max_gen_toks", started["max_tokens"]), "mean_tokens": _mean_tokens(samples, tokenizer),
    }  # fmt: skip


def _samples(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.is_file() else []


def _interval(value: float, stderr: object, metric: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """low, high, method, values and digests: over documents where each has a share, else from lm-eval's standard error."""
    each = {str(s["doc_id"]): s.get(metric) for s in samples}
    if each and all(isinstance(v, int | float) and 0 <= v <= 1 for v in each.values()):
        values = {k: float(v) for k, v in each.items()}  # type: ignore[arg-type]
        interval, method = of_values(list(values.values()))
        if abs(interval.estimate - value) < 1e-9:
            return {"low": interval.low, "high": interval.high, "method": method, "values": values, **_digests(samples)}
    if isinstance(stderr, int | float):
        low, high = value - 1.96 * stderr, value + 1.96 * stderr
        if 0 <= value <= 1:  # a share; others (BLEU) have no such bounds
            low, high = max(0.0, low), min(1.0, high)
        return {"low": low, "high": high, "method": "lm-eval's standard error"}
    return {"low": None, "high": None, "method": "none given by lm-eval"}


def _digests(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Of the documents, where lm-eval tells them."""
    return {"digests": {str(s["doc_id"]): s["doc_hash"][:8] for s in samples}} if all("doc_hash" in s for s in samples) else {}


def _mean_tokens(samples: Sequence[Mapping[str, Any]], tokenizer: TextTokenizer | None) -> float | None:
    texts = [r for s in samples for r in s.get("resps", [[]])[0]]
    if tokenizer is None or not texts or not all(isinstance(t, str) for t in texts):
        return None
    return sum(len(tokenizer.encode_response(t)) for t in texts) / len(texts)
