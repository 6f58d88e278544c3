"""The loop of `k15 rl`, stopped at its awkward places and gone on with: nothing is lost, nothing is left out.

Sampling, rewards, checkpoints and logs are the real ones, the engine a real server (`fake_engine`). What stands in is trainer and
hand-off, which take minutes."""

import asyncio
import string
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_engine import TOKEN, FakeEngine

from k15.config.schema import RunConfig
from k15.data.sampler import PromptSampler
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.log import MetricsWriter, RolloutLog, read_metrics
from k15.reward.router import Rewards
from k15.rollout.buffer import ReplayBuffer
from k15.rollout.client import EngineClient, engine_session
from k15.rollout.worker import RolloutWorker
from k15.runs.controller import begin, run
from k15.runs.evaluate import Evaluator
from k15.runs.head import Interrupted
from k15.runs.loop import Loop
from k15.runs.state import Checkpoints
from k15.types import Prompt

PROMPTS = [Prompt(f"p{i}", "ab" + "cd" * i, "4") for i in range(6)]


def config() -> RunConfig:
    cfg = RunConfig()
    cfg.model.path, cfg.model.max_context_tokens = "given", 64
    cfg.algo.iterations, cfg.algo.prompts_per_iteration, cfg.algo.samples_per_prompt, cfg.algo.minibatches = 2, 2, 2, 1
    cfg.rollout.max_response_tokens = cfg.rollout.budget_tokens = 8
    cfg.rollout.repetition.enabled = False
    cfg.eval.every = cfg.eval.samples = cfg.save.every = cfg.reward.workers = 1
    cfg.reward.audit_fraction = 0.5
    cfg.save.exports = "all"
    return cfg


class Ranks:
    """Trainer and hand-off: every version is label enough. `trained`: prompts by iteration; `called`: what the trainer was told,
    a step by its first sample and its rate; `at_step` is called with how many there were."""

    def __init__(self, engine: FakeEngine, worker: RolloutWorker) -> None:
        self.engine, self.worker, self.trainer = engine, worker, self
        self.trained: list[int] = []
        self.called: list[object] = []
        self.at_step: Callable[[int], None] = lambda count: None

    async def call(self, method: str, **words) -> dict[str, float]:
        if method != "sft_step":
            assert method in ("init", "load", "reset_optimizer")
            self.called.append(method)
            return {}
        self.called.append((words["samples"][0].tokens, words["lr"]))
        self.at_step(len(self.called) - 1)
        return {"loss": 0.5}

    async def hand_off(self, version: int) -> dict[str, float]:
        self.engine.version = str(version)
        for client in self.worker.clients:
            client.expect(version)
        return {"handoff_s": 0.1}

    async def train(self, batch) -> dict[str, float]:
        self.trained.append(len(batch.samples))
        return {"loss": 0.5}

    async def save(self, folder: str) -> None:
        Path(folder, "rank-0").write_text("weights")

    async def export_hf(self, folder: Path, iteration: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text("weights")


@asynccontextmanager
async def a_loop(folder: Path, prompts: list[Prompt] = PROMPTS[:4]):
    """A process's worth of the run in `folder`, and its checkpoints."""
    cfg, checkpoints = config(), Checkpoints(folder, 2)
    model = write_tiny_model(folder / "model", cfg.model.tiny, 64, alphabet=string.ascii_letters[:46])
    tokenizer, engine = load_tokenizer(model), await FakeEngine().start()
    async with engine_session() as session:
        worker = RolloutWorker([EngineClient(engine.url, TOKEN, session)], cfg.rollout, 7, max_context_tokens=64)
        with Rewards(cfg.reward, 7) as rewards, MetricsWriter(folder) as metrics:
            evaluator = Evaluator(cfg, PROMPTS[4:], worker, rewards, tokenizer)
            yield Loop(
                cfg, Ranks(engine, worker), worker, rewards, PromptSampler(prompts, cfg.sampler, 7), ReplayBuffer(),
                tokenizer, evaluator, metrics, RolloutLog(folder), checkpoints,
            ), checkpoints  # fmt: skip
    await engine.kill()


def stopped_in_evaluation(loop: Loop, iteration: int) -> None:
    """The signal comes while `iteration` is evaluated."""
    whole = loop.evaluator.run

    async def evaluation():
        if loop.state.iteration == iteration - 1 or not iteration:
            loop.stop_requested.set()
            await asyncio.sleep(60)
        return await whole()

    loop.evaluator.run = evaluation


async def test_an_evaluation_that_a_stop_breaks_off_is_made_after_the_restart(tmp_path):
    async with a_loop(tmp_path) as (loop, checkpoints):
        stopped_in_evaluation(loop, 0)
        with pytest.raises(Interrupted):
            await begin(loop)
    (before,) = read_metrics(tmp_path / "metrics.jsonl")
    assert before["iteration"] == 0 and "eval_n" not in before
    async with a_loop(tmp_path) as (loop, checkpoints):
        stopped_in_evaluation(loop, 2)
        with pytest.raises(Interrupted):
            await run(loop, checkpoints.latest())
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r.get("eval_n") for r in rows] == [2, 2, None] and rows[0]["handoff_s"] == before["handoff_s"]
    async with a_loop(tmp_path) as (loop, checkpoints):
        await run(loop, checkpoints.latest())
        assert loop.fleet.trained == [], "what was trained is not trained again"
    ended = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["iteration"], r["eval_n"]) for r in ended] == [(0, 2), (1, 2), (2, 2)]
    assert ended[:2] == rows[:2] and rows[2].items() - ended[2].items() <= {("time_eval_s", rows[2]["time_eval_s"])}
    assert (tmp_path / "exports" / "iteration-00002").is_dir() and (tmp_path / "hf").is_dir()


class Patient(Rewards):
    """Scores once it may."""

    began, may = threading.Event(), threading.Event()

    def score_group(self, *words, **settings):
        self.began.set()
        self.may.wait(30)
        return super().score_group(*words, **settings)


async def test_a_stop_while_answers_are_scored_leaves_them_to_the_next_job(tmp_path):
    async with a_loop(tmp_path) as (loop, checkpoints):
        await begin(loop)
        audited = loop.rewards.state_dict()
        loop.rewards.__class__ = Patient
        going = asyncio.create_task(loop.run())
        await asyncio.to_thread(Patient.began.wait, 30)
        loop.stop_requested.set()
        with pytest.raises(Interrupted):
            await asyncio.wait_for(going, 20)
        assert not Patient.may.is_set() and loop.fleet.trained == []
        Patient.may.set()
    state = checkpoints.latest()[1]
    held = [row["prompt"]["id"] for row in state.buffer["completed"]]
    assert len(held) == 2 and (state.iteration, state.drawn) == (0, True) and state.rewards == audited
    async with a_loop(tmp_path) as (loop, checkpoints):
        await run(loop, checkpoints.latest())
        assert loop.fleet.trained == [4, 4]
    assert [r["iteration"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


async def test_answers_to_prompts_that_have_left_the_data_meanwhile_are_trained_on_all_the_same(tmp_path):
    async with a_loop(tmp_path) as (loop, checkpoints):
        await begin(loop)
        draw = loop.sampler.next

        def drawn(*words, **settings):
            loop.stop_requested.set()
            return draw(*words, **settings)

        loop.sampler.next = drawn
        with pytest.raises(Interrupted):
            await loop.run()
    async with a_loop(tmp_path, PROMPTS[4:5]) as (loop, checkpoints):
        await run(loop, checkpoints.latest())
        assert loop.fleet.trained == [4, 2], "both prompts that were in flight, then the one that there is"


async def test_a_warm_up_goes_on_where_the_stop_came(tmp_path):
    """Step by step what one that nobody stops does, at the same rates; the optimizer is reset at its end alone."""
    called = []
    for place, stop_at in (("whole", 99), ("stopped", 3), ("stopped", 2), ("stopped", 99)):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        async with a_loop(folder) as (loop, checkpoints):
            loop.cfg.model.path, loop.cfg.warmup.steps, loop.cfg.warmup.batch_size = None, 7, 2
            loop.cfg.algo.iterations = 0
            loop.tokenizer = load_tokenizer(write_tiny_model(folder / "digits", loop.cfg.model.tiny, 64))
            loop.fleet.at_step = lambda count, loop=loop, at=stop_at: loop.stop_requested.set() if count == at else None
            try:
                await run(loop, checkpoints.latest())
            except Interrupted:
                assert stop_at < 99 and not (folder / "metrics.jsonl").read_text()
            called.append(loop.fleet.called)
    whole, *parts = called
    assert len(whole) == 1 + 7 + 1 and whole[-1] == "reset_optimizer"
    assert [(p[0], len(p)) for p in parts] == [("init", 4), ("load", 3), ("load", 4)]
    assert [c for p in parts for c in p[1:]] == whole[1:]
    assert checkpoints.latest()[1].warmup_left == 0 and [r["iteration"] for r in read_metrics(folder / "metrics.jsonl")] == [0]
