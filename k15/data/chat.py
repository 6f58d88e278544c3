"""Conversations as samples: tokens of the chat template, and a loss mask that selects what the assistant says.

Each piece of a conversation is encoded by itself, exactly as at sampling time: the prompt of a turn is what
`TextTokenizer.encode_prompt` would make, the answer is encoded alone. What the template puts behind an answer (its end
token) counts, the white space after that does not. The last answer ends with the model's end token in any case.
"""

from collections.abc import Mapping, Sequence

from k15.data.tokenizer import TextTokenizer
from k15.errors import DataError
from k15.types import Sample

ROLES = ("system", "user", "assistant", "tool")


def conversation(messages: Sequence[Mapping[str, str]], tokenizer: TextTokenizer, turns: str = "all") -> Sample:
    """One sample; `turns` all: every assistant message counts in the loss, last: only the last one.

    Raises DataError where the template rewrites earlier turns (then only turns=last can be right) or no answer ends it.
    """
    _check(messages)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    done, pieces = "", []
    for index in answers if turns == "all" else answers[-1:]:
        prompt = tokenizer.render(messages[:index])
        whole = tokenizer.render(messages[: index + 1], generate=False)
        if not whole.startswith(prompt):
            raise DataError(
                "the chat template ends its question to the assistant with text that its rendered answers do not begin with (an "
                "opened <think>, for example). Give rows of `prompt` and `response`, which are encoded as they are sampled"
            )
        if not prompt.startswith(done):
            raise DataError(
                "the chat template writes a conversation differently once it goes on (it drops reasoning of earlier turns, for "
                "example). Set data.turns=last, and give a row for each turn that is to be learned"
            )
        pieces += [(prompt[len(done) :], False), (whole[len(prompt) :], True)]
        done = whole
    return _sample(pieces, tokenizer)


def _check(messages: Sequence[Mapping[str, str]]) -> None:
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"message {number} has the role {role!r}; roles are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"message {number} has the content {content!r}; it must be a text")
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise DataError("a conversation must end with an assistant's message that is not empty")
    if messages[0]["role"] == "assistant":
        raise DataError("a conversation must not begin with the assistant")


def _sample(pieces: Sequence[tuple[str, bool]], tokenizer: TextTokenizer) -> Sample:
    """pieces: (text, counts in the loss) in turn, the first a prompt."""
    tokens: list[int] = []
    mask: list[int] = []
    for number, (text, counted) in enumerate(pieces):
        body = text.rstrip() if counted else text
        ids = tokenizer.encode_plain(body)
        rest = tokenizer.encode_plain(text[len(body) :])
        if number == len(pieces) - 1:
            rest = []  # nothing follows that the model must read
            if not ids:
                raise DataError("the last answer encodes to no token at all, so there is nothing to learn")
            if ids[-1] != tokenizer.eos_id:
                ids = [*ids, tokenizer.eos_id]
        tokens += ids + rest
        mask += [int(counted)] * len(ids) + [0] * len(rest)
    prompt_len = mask.index(1)
    if prompt_len == 0:
        raise DataError("the chat template writes nothing before the first answer")
    return Sample(tuple(tokens), prompt_len, tuple(mask[prompt_len:]))


def answer(prompt: str, response: str, tokenizer: TextTokenizer, whole: bool = True) -> Sample:
    """A prompt and its response, as RL samples it: a `whole` response ends with the end token, and all of it counts."""
    head, tail = tokenizer.encode_prompt(prompt), tokenizer.encode_response(response, end=whole)
    return Sample(tuple(head + tail), len(head), (1,) * len(tail))
