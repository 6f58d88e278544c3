"""`k15 eval watch=...` on a real vLLM server: an export is evaluated once, and our GSM8K is lm-eval's own, number for number.

The tiny model knows some answers by heart, so that the numbers are neither 0 nor 1.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from knowing import WORDS, write_data, write_model
from transformers import AutoModelForCausalLM

from k15.config.hf import EXPORT_RECORD, export_record
from k15.data.tokenizer import load_tokenizer
from k15.eval.results import read_results

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
SETTINGS = [
    "engine.kv_cache_bytes=134217728", "engine.concurrency=8", "model.chat=false", "cluster.device=cpu", "watch_every_s=0.2",
    "limit=16", "sampling.max_tokens=64", "tasks=gsm8k_cot_zeroshot,arithmetic,lm_eval:gsm8k_cot_zeroshot,lm_eval:animals",
]  # fmt: skip


def write_choices(folder: Path) -> None:
    """A task of the user's own for lm-eval, with the shape of MMLU: the likelihoods of four choices are compared."""
    folder.mkdir()
    rows = [{"ask": f"How many does one {w} see?", "choices": [str(n * 7), w, "The answer", f"{w}s."], "gold": n % 4}
            for n, w in enumerate(WORDS)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "animals.yaml").write_text(
        f"task: animals\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'rows.jsonl'}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{ask}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: gold\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )


def start(run_dir: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "k15", "eval", f"run_dir={run_dir}", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a watcher of a training run that wrote its export of iteration 3, then ended."""
    folder = tmp_path_factory.mktemp("eval")
    watched, out = folder / "run", folder / "out"
    assert write_model(watched / "hf", write_data(folder / "data")) == 1.0
    (watched / "hf" / EXPORT_RECORD).write_text(export_record(3))
    write_choices(folder / "tasks")
    watcher = start(out, f"watch={watched}", f"data_dir={folder / 'data'}", f"lm_eval.include_path={folder / 'tasks'}", *SETTINGS)
    deadline = time.monotonic() + 600
    while not (out / "by_iteration.md").is_file() and time.monotonic() < deadline:
        assert watcher.poll() is None, watcher.communicate()[0]
        time.sleep(0.1)
    (watched / "report").mkdir()
    (watched / "report" / "index.html").touch()
    (watched / "config.yaml").write_text("algo:\n  iterations: 3\n")
    (watched / "metrics.jsonl").write_text(json.dumps({"iteration": 3}) + "\n")
    ended(watcher)
    return out


def test_our_gsm8k_is_lm_evals_number_for_number(evaluated: Path) -> None:
    run = evaluated / "iteration-3"
    results = {(r["task"], r["metric"]): r for r in read_results(run)["results"]}
    ours, theirs = results["gsm8k_cot_zeroshot", "pass@1"], results["lm_eval:gsm8k_cot_zeroshot", "exact_match,flexible-extract"]
    assert 0 < ours["value"] < 1 and ours["value"] != results["lm_eval:gsm8k_cot_zeroshot", "exact_match,strict-match"]["value"]
    for key in ("value", "low", "high", "problems"):
        assert ours[key] == theirs[key], key
    assert [ours["values"][str(n + 1)] for n in range(16)] == [theirs["values"][str(n)] for n in range(16)]
    answers = map(json.loads, (run / "responses" / "gsm8k_cot_zeroshot.jsonl").read_text().splitlines())
    texts = {r["id"]: r["text"] for r in answers}
    (samples,) = (run / "lm_eval-gsm8k_cot_zeroshot").glob("**/samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 32 and all(texts[str(r["doc_id"] + 1)] == r["resps"][0][0] for r in rows)  # two filters


def test_likelihoods_of_choices_are_those_of_transformers(evaluated: Path) -> None:
    """Tasks like MMLU: every choice's log-likelihood from our server, and the share of right ones, by a second implementation."""
    folder = evaluated.parent
    model = AutoModelForCausalLM.from_pretrained(folder / "run" / "hf", dtype=torch.float32)
    tokenizer = load_tokenizer(folder / "run" / "hf")
    (samples,) = (evaluated / "iteration-3" / "lm_eval-animals").glob("**/samples_*.jsonl")
    right = []
    for row in map(json.loads, samples.read_text().splitlines()):
        doc, theirs = row["doc"], [r[0] for r in row["resps"]]
        ours = []
        for choice in doc["choices"]:
            prompt, said = tokenizer.encode_prompt(doc["ask"]), tokenizer.encode_response(" " + choice)[:-1]  # without its end
            with torch.no_grad():
                logits = model(torch.tensor([prompt + said])).logits[0]
            picked = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(said)[:, None])
            ours.append(float(picked.sum()))
        assert [float(x[0]) for x in theirs] == pytest.approx(ours, abs=1e-3), doc
        right.append(max(range(4), key=ours.__getitem__) == doc["gold"])
    results = {(r["task"], r["metric"]): r for r in read_results(evaluated / "iteration-3")["results"]}
    assert 0 < sum(right) < len(right) == 16 and results["lm_eval:animals", "acc"]["value"] == sum(right) / 16


def test_each_export_is_evaluated_once(evaluated: Path) -> None:
    rows = [json.loads(line) for line in (evaluated / "by_iteration.jsonl").read_text().splitlines()]
    assert [(r["iteration"], r["task"]) for r in rows][:2] == [(3, "gsm8k_cot_zeroshot"), (3, "arithmetic")] and len(rows) == 6
    assert rows[0]["model"].endswith("run at iteration-3") and not (evaluated / "iteration-3" / "model").exists()
    folder = evaluated.parent
    words = (f"watch={folder / 'run'}", f"data_dir={folder / 'data'}", f"lm_eval.include_path={folder / 'tasks'}")
    again = ended(start(evaluated, *words, *SETTINGS))
    assert "vLLM" not in again and "its last export evaluated" in again
    scored = ended(start(evaluated / "iteration-3", "score_only=true"))
    assert "vLLM" not in scored and f"{100 * rows[0]['value']:.2f} %" in scored
