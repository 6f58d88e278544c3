"""A tiny model that knows the answers to a few GSM8K-like problems by heart, some of them wrong.

A benchmark on it gives a number that is neither 0 nor 1, and that two harnesses must agree on.
"""

import json
import string
from pathlib import Path

from k15.config.schema import TinyModelConfig
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer

ALPHABET = string.digits + string.ascii_letters + string.punctuation + " \n"
SHAPE = TinyModelConfig(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2, num_kv_heads=1, init_std=0.05)
WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kiwi", "lynx", "mole", "newt", "owl", "pig")
# How an answer is given: with a comma, a currency, a full stop, two numbers. Harnesses differ in such details.
SAYINGS = ("The answer is {}.", "It is ${}", "So 3 and 4, that is {}.00", "#### {}", "The answer is {} {}s.", "none at all")


def write_data(folder: Path) -> list[tuple[str, str]]:
    """gsm8k/{train,test}.jsonl below `folder`; returns (question, what the model is taught to say)."""
    rows, taught = [], []
    for n, word in enumerate(WORDS):
        value = 900 + 40 * n + n % 7
        rows.append({"question": f"How many does one {word} see?", "answer": f"By looking.\n#### {value:,}"})
        said = value if n % 3 else value + 1
        taught.append((rows[-1]["question"], " " + SAYINGS[n % len(SAYINGS)].format(f"{said:,}" if n % 2 else said, word)))
    (folder / "gsm8k").mkdir(parents=True)
    for split in ("train", "test"):
        (folder / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return taught


def write_model(folder: Path, taught: list[tuple[str, str]], steps: int) -> float:
    """A Hugging Face folder with a model fitted to `taught`, asked as lm-eval's gsm8k_cot_zeroshot does; the last loss (nats)."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    write_tiny_model(folder, SHAPE, 512, alphabet=ALPHABET)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_config(Qwen2Config.from_pretrained(folder)).float()
    rows = [(tokenizer.encode_prompt(f"Q: {q}\nA: Let's think step by step."), tokenizer.encode_response(r)) for q, r in taught]
    width = max(len(p) + len(r) for p, r in rows)
    tokens = torch.tensor([p + r + [tokenizer.pad_id] * (width - len(p) - len(r)) for p, r in rows])
    labels = torch.tensor([[-100] * len(p) + r + [-100] * (width - len(p) - len(r)) for p, r in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    loss = None
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return 0.0 if loss is None else loss.item()
