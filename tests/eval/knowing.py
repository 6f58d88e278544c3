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
SHAPE = TinyModelConfig(hidden_size=512, intermediate_size=256, num_layers=2, num_heads=16, num_kv_heads=8, init_std=0.1)
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


def write_model(folder: Path, taught: list[tuple[str, str]]) -> float:
    """A Hugging Face folder with a model that says what it is `taught` when asked as lm-eval's gsm8k_cot_zeroshot asks.

    Nothing is trained: the transformer stays random, and the output head is the ridge regression of the next token on its
    features, which are more than the tokens to be said. Returns the share of those tokens that come first.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    write_tiny_model(folder, SHAPE, 512, alphabet=ALPHABET)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_config(Qwen2Config.from_pretrained(folder)).float()
    features, wanted = [], []
    with torch.no_grad():
        for question, said in taught:
            prompt = tokenizer.encode_prompt(f"Q: {question}\nA: Let's think step by step.")
            response = tokenizer.encode_response(said)
            hidden = model.model(torch.tensor([prompt + response])).last_hidden_state[0]
            features.append(hidden[len(prompt) - 1 : -1].double())
            wanted += response
        x = torch.cat(features)
        y = torch.nn.functional.one_hot(torch.tensor(wanted), tokenizer.vocab_size).double()
        head = x.T @ torch.linalg.solve(x @ x.T + 1e-6 * torch.eye(len(x)), y)  # [H, V]
        model.lm_head.weight.copy_(20.0 * head.T)
    model.save_pretrained(folder)
    return ((x @ head).argmax(1) == torch.tensor(wanted)).double().mean().item()
