"""Rows that only the run can judge (length, domain, tests of a program): named by file and line, or skipped and counted."""

import json
from pathlib import Path

import pytest

from k15.config.schema import DataConfig, RunConfig, TinyModelConfig
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.errors import DataError
from k15.runs.prepare import load_prompts

BAD = {
    "too long": ({"prompt": "1+" * 60 + "1=", "answer": "61"}, "tokens, but at most"),
    "no reward": ({"prompt": "1+2=", "answer": "3", "domain": "chess"}, "has no reward. Known domains: code, math"),
    "tests are no object": ({"prompt": "1+2=", "answer": "[1]", "domain": "code"}, "must be a JSON object"),
    "tests are no pairs": ({"prompt": "1+2=", "answer": {"tests": [7]}, "domain": "code"}, "test"),
    "not UTF-8": (b'{"prompt": "\xff", "answer": "1"}', "not UTF-8"),
}


@pytest.mark.parametrize("which", ["data.path", "data.eval_path"])
@pytest.mark.parametrize("name", BAD)
def test_a_row_that_the_run_cannot_use_is_a_bad_row(name: str, which: str, tmp_path: Path, caplog) -> None:
    tokenizer = load_tokenizer(write_tiny_model(tmp_path / "model", TinyModelConfig(), 192))
    row, says = BAD[name]
    good = {part: [json.dumps({"prompt": f"{n}+{m}=", "answer": str(n + m)}).encode() for n in range(70)]
            for m, part in enumerate(("data.path", "data.eval_path"))}  # fmt: skip
    files = {part: tmp_path / f"{part}.jsonl" for part in good}
    good[which][3:3] = [row if isinstance(row, bytes) else json.dumps(row).encode()]
    for part, file in files.items():
        file.write_bytes(b"\n".join(good[part]))
    cfg = RunConfig(data=DataConfig("jsonl", str(files["data.path"]), str(files["data.eval_path"])))
    with pytest.raises(DataError) as caught:
        load_prompts(cfg, tokenizer)
    assert f"{files[which]}:4: " in str(caught.value) and says in str(caught.value)
    cfg.data.on_bad_row = "skip"
    train, held_out = load_prompts(cfg, tokenizer)
    assert len(train) == len(held_out) == 70
    assert f"{files[which]}: 1 bad rows skipped, 70 prompts kept" in caplog.text
