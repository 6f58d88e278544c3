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
from k15.eval.intervals import Interval
from k15.eval.results import Result

INSTALL = "pip install 'lm-eval==0.4.13', here or in an environment of its own that lm_eval.python=<its python> names"
LOCAL = {"gsm8k": "gsm8k"}  # task prefix -> folder of the data folder with train.jsonl and test.jsonl
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


def finished(out: Path) -> bool:
    """Whether lm-eval has ended well in this folder."""
    return _newest(out) is not None


def run(
    cfg: LmEvalConfig, task: str, target: Target, out: Path, *, data: Path | None, limit: int | None, seed: int, concurrency: int
) -> None:  # fmt: skip
    """Run `task`; its output goes to `out`. Raises EngineError with the end of lm-eval's log."""
    out.mkdir(parents=True, exist_ok=True)
    name, include = _local(cfg, task, data, out)
    words = command(cfg, name, target, out, include=include, limit=limit, seed=seed, concurrency=concurrency)
    log, started = out / "lm_eval.log", out / "started.json"
    started.write_text(json.dumps({"chat": target.chat, "tokenizer": target.tokenizer}) + "\n")
    with log.open("wb") as said:
        env = os.environ | ({"OPENAI_API_KEY": target.key} if target.key is not None else {})
        code = subprocess.run(words, stdout=said, stderr=said, env=env, preexec_fn=child.prepare).returncode
    if code != 0 or not finished(out):
        tail = "\n".join(log.read_text(errors="replace").strip().split("\n")[-12:])
        raise EngineError(f"lm-eval ended with status {code} in {name} ({log}):\n{tail}")


def command(
    cfg: LmEvalConfig, task: str, target: Target, out: Path, *, include: Sequence[Path], limit: int | None, seed: int,
    concurrency: int,
) -> list[str]:  # fmt: skip
    """The words of the subprocess. The key is in the environment, which other users cannot read."""
    model = {
        "model": target.model, "base_url": target.url + ("/chat/completions" if target.api == "chat" else "/completions"),
        "num_concurrent": concurrency, "max_length": target.max_context, "max_retries": 3, "timeout": 3600,
    }  # fmt: skip
    if target.tokenizer is not None:
        # Special tokens as the tokenizer itself adds them, which is how k15 asks.
        model |= {"tokenizer": target.tokenizer, "tokenizer_backend": "huggingface", "add_bos_token": not target.chat}
    kind = "local-chat-completions" if target.api == "chat" else "local-completions"
    words = [python(cfg), "-m", "lm_eval", "run", "--model", kind, "--tasks", task, "--output_path", str(out), "--log_samples",
             "--model_args", ",".join(f"{k}={v}" for k, v in model.items()), "--seed", str(seed)]  # fmt: skip
    for option, value in (("--limit", limit), ("--num_fewshot", cfg.num_fewshot)):
        words += [option, str(value)] if value is not None else []
    for folder in include:
        words += ["--include_path", str(folder)]
    return words + (["--apply_chat_template"] if target.chat or target.api == "chat" else [])


def _local(cfg: LmEvalConfig, task: str, data: Path | None, out: Path) -> tuple[str, list[Path]]:
    """(the task's name, folders with task files): a task on the user's own copy of its data, where there is one."""
    include = [Path(cfg.include_path)] if cfg.include_path is not None else []
    folder = next((f for prefix, f in LOCAL.items() if task.startswith(prefix)), None)
    files = {} if data is None or folder is None else {s: data / folder / f"{s}.jsonl" for s in ("train", "test")}
    if not files or not all(f.is_file() for f in files.values()) or include:
        return task, include
    where = _definition(cfg, task)
    if where is None:
        return task, include
    own = out / "tasks"
    own.mkdir(exist_ok=True)
    lines = [f"include: {where}", f"task: {task}{_SUFFIX}", "dataset_path: json", "dataset_name: null"]
    lines += ["dataset_kwargs:", "  data_files:", *(f"    {s}: {f.absolute()}" for s, f in files.items())]
    (own / f"{task}{_SUFFIX}.yaml").write_text("\n".join(lines) + "\n")
    return task + _SUFFIX, [own]


def _definition(cfg: LmEvalConfig, task: str) -> Path | None:
    """The file in which lm-eval defines a task; None where there is none of that name."""
    for path in sorted(_folder(cfg).glob("tasks/**/*.yaml")):
        if f"task: {task}\n" in path.read_text():
            return path
    return None


def _newest(out: Path) -> Path | None:
    """lm-eval's results file, which it writes when all is done."""
    found = sorted(out.glob("**/results_*.json"))
    return found[-1] if found else None


def numbers(out: Path, model: str, seed: int) -> list[Result]:
    """The numbers in the folder of a finished `run`: a result a task (or group) and metric. Raises DataError where there is none.

    Mean tokens are of the responses as texts: lm-eval does not keep how many tokens were sampled, nor which were cut off.
    """
    path = _newest(out)
    if path is None:
        raise DataError(f"{out} holds no results of lm-eval; run it without score_only.")
    body, found = json.loads(path.read_text()), []
    started = json.loads((out / "started.json").read_text())
    tokenizer = load_tokenizer(started["tokenizer"]) if started["tokenizer"] is not None else None
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
            found.append(
                {
                    "task": f"lm_eval:{task.removesuffix(_SUFFIX)}", "metric": metric if which == "none" else f"{metric},{which}",
                    "value": float(value), **_interval(float(value), metrics.get(f"{metric}_stderr,{which}"), metric, mine),
                    "problems": len(mine) if mine else body.get("n-samples", {}).get(task, {}).get("effective"), "samples": 1,
                    "temperature": float(kwargs.get("temperature", 0.0)) if kwargs else None, "top_p": kwargs.get("top_p"),
                    "max_tokens": kwargs.get("max_gen_toks"), "mean_tokens": _mean_tokens(mine, tokenizer) if kwargs else None,
                    "truncated": None, "seed": seed, "prompt": "lm-eval's", "chat": started["chat"],
                    "model": model, "template": f"lm-eval {version}, {shots}-shot",
                }
            )  # fmt: skip
    if not found:
        raise DataError(f"{path} holds no number.")
    return found


def _samples(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.is_file() else []


def _interval(value: float, stderr: object, metric: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """low, high, method and values: over documents where each has a share, else from lm-eval's standard error."""
    each = {str(s["doc_id"]): s.get(metric) for s in samples}
    if each and all(isinstance(v, int | float) and 0 <= v <= 1 for v in each.values()):
        values = {k: float(v) for k, v in each.items()}  # type: ignore[arg-type]
        interval, method = of_values(list(values.values()))
        if abs(interval.estimate - value) < 1e-9:
            return {"low": interval.low, "high": interval.high, "method": method, "values": values}
    if isinstance(stderr, int | float):
        i = Interval(value, value - 1.96 * stderr, value + 1.96 * stderr)
        return {"low": max(0.0, i.low), "high": min(1.0, i.high), "method": "lm-eval's standard error"}
    return {"low": None, "high": None, "method": "none given by lm-eval"}


def _mean_tokens(samples: Sequence[Mapping[str, Any]], tokenizer: TextTokenizer | None) -> float | None:
    texts = [r for s in samples for r in s.get("resps", [[]])[0]]
    if tokenizer is None or not texts or not all(isinstance(t, str) for t in texts):
        return None
    return sum(len(tokenizer.encode_response(t, end=False)) for t in texts) / len(texts)
