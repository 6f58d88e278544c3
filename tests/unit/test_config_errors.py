"""Wrong settings: one clear message each, on the login node, before anything is allocated."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from operator import attrgetter

import pytest

from k15.config.check import check, model_config
from k15.config.commands import COMMANDS
from k15.config.compose import compose_as, compose_run, from_yaml, listed, to_yaml
from k15.config.curate import CurateConfig
from k15.config.eval import check_eval
from k15.config.reward_model import check_reward_model
from k15.config.schema import TinyModelConfig
from k15.config.sft import SftConfig, check_sft
from k15.config.shortest import check_shortest
from k15.config.words import quoted
from k15.data.tiny import write_tiny_model
from k15.errors import ConfigError, K15Error
from k15.runs import curate
from k15.runs.eval_engine import Subject
from k15.runs.job import prepare_folder
from k15.runs.prepare import model_folder, preflight
from k15.runs.rl import JOB as RL


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder with 6 heads, 2 key-value heads, 4 layers (weights are not read by the checks)."""
    config = {"model_type": "qwen2", "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 4,
              "hidden_size": 96, "max_position_embeddings": 256}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    return tmp_path


CASES = {
    "tensor parallel does not divide the heads": (["model.path={f}", "parallel.tensor=4"], ["parallel.tensor=4", "6", "Allowed: 1, 2"]),
    "pipeline does not divide the layers": (["model.path={f}", "parallel.pipeline=3", "parallel.ranks_per_node=3"], ["4 layers", "1, 2, 4"]),
    "ranks not divisible by the layout": (["model.path={f}", "parallel.tensor=2"], ["1 ranks", "2 x 1 x 1"]),
    "experts without a mixture": (["parallel.expert=2", "parallel.ranks_per_node=2"], ["no experts"]),
    "tau is not positive": (["algo.tau=0"], ["algo.tau", "greater than 0"]),
    "one sample with leave_one_out": (["algo.samples_per_prompt=1", "algo.baseline=leave_one_out"], ["leave_one_out", "at least 2"]),
    "one sample learns nothing": (["algo.samples_per_prompt=1"], ["samples_per_prompt", "at least 2"]),
    "batch not divisible": (["algo.prompts_per_iteration=10", "algo.minibatches=4"], ["not divisible", "1, 2, 5, 10"]),
    "budget over the context": (["rollout.budget_tokens=100000"], ["rollout.budget_tokens=100000", "context"]),
    "response leaves no room": (["rollout.max_response_tokens=192"], ["leaves no room", "192"]),
    "context over the model's positions": (["model.path={f}", "model.max_context_tokens=512"], ["max_position_embeddings=256"]),
    "cache below one sequence": (["rollout.kv_cache_bytes=100000", "cluster.device=cpu"], ["rollout.kv_cache_bytes=100000", "393216 bytes"]),
    "unknown key": (["algo.tua=0.1"], ["tua", "Did you mean 'tau'"]),
    "unknown group choice": (["reward=lenght"], ["lenght", "Did you mean 'length'"]),
    "unknown kernels": (["algo.kernels=cuda"], ["algo.kernels", "auto, torch, triton"]),
    "Triton without a GPU": (["algo.kernels=triton", "cluster.device=cpu"], ["algo.kernels=triton", "cluster.device=cpu", "auto"]),
    "unknown baseline": (["algo.baseline=median"], ["median", "leave_one_out, log_partition, mean, none"]),
    "missing model folder": (["model.path=/no/such/folder"], ["/no/such/folder", "no folder"]),
    "missing data path": (["model.path={f}", "data=jsonl", "data.path=/no/file.jsonl"], ["/no/file.jsonl", "no file"]),
    "jsonl without a path": (["model.path={f}", "data=jsonl"], ["data.path"]),
    "user data for the tiny model": (["data=jsonl", "data.path={f}/config.json"], ["model.path"]),
    "not a number": (["algo.lr=fast"], ["algo.lr", "fast"]),
    "a fraction over 1": (["rollout.top_p=1.5"], ["rollout.top_p", "0 to 1"]),
    "context parallel over too few heads": (["parallel.context=4", "parallel.ranks_per_node=4"], ["parallel.context=4", "Allowed: 1, 2"]),
    "custom reward form": (["reward.custom=my_rewards.brevity"], ["package.module:function"]),
    "half precision": (["model.dtype=float16"], ["float16", "bfloat16, float32"]),
    "no sample in the evaluation": (["eval.samples=0"], ["eval.samples", "greater than 0"]),
    "no warm-up step": (["warmup.steps=0"], ["warmup.steps", "greater than 0"]),
    "an empty warm-up batch": (["warmup.batch_size=0"], ["warmup.batch_size", "greater than 0"]),
    "retries": (["rollout.max_retries=-1"], ["rollout.max_retries", "at least 0"]),
    "no time to answer": (["rollout.request_timeout_s=0"], ["rollout.request_timeout_s", "greater than 0"]),
    "silence longer than a request": (["rollout.request_timeout_s=300"],
                                      ["rollout.silence_timeout_s=300", "below rollout.request_timeout_s=300", "a smaller"]),
    "a penalty that pays": (["reward.repetition_penalty=-1"], ["reward.repetition_penalty", "at least 0"]),
    "a length that pays": (["reward.length.weight=-1"], ["reward.length.weight", "at least 0"]),
    "data without its kind": (["model.path={f}", "data.path=mine.jsonl"], ["mine.jsonl", "data=jsonl"]),
    "signal before the start": (["cluster.signal_before_s=7200"], ["cluster.signal_before_s=7200", "at most 3599"]),
    "sandbox without a token": (["sandbox.url=http://x:1"], ["sandbox.url", "token_file"]),
    "sandbox without a scheme": (["sandbox.url=x:1", "sandbox.token_file=t"], ["sandbox.url is 'x:1'", "http://"]),
    "token without a sandbox": (["sandbox.token_file=t"], ["without sandbox.url"]),
    "judge without a place": (["reward.judge.rejected=true"], ["reward.judge.rejected", "reward.judge.url=engines"]),
    "judge without a model": (["reward.judge.url=https://host/v1"], ["reward.judge.model"]),
    "judge that never answers": (["reward.judge.url=engines", "reward.judge.max_tokens=0"], ["reward.judge.max_tokens", "at least 1"]),
    "reward that is no number": (["reward.correct=nan"], ["reward.correct", "greater than 0"]),
    "custom weight that is no number": (["reward.custom_weight=nan"], ["reward.custom_weight", "finite"]),
    "negative seed": (["seed=-1"], ["seed is -1", "at least 0"]),
    "Adam's decay": (["algo.beta2=1"], ["algo.beta2", "below 1"]),
    "no head": (["model.tiny.num_heads=0"], ["model.tiny.num_heads", "greater than 0"]),
    "nothing held out": (["model.path={f}", "data=jsonl", "data.path={f}/config.json", "data.eval_fraction=0"],
                         ["data.eval_fraction is 0", "held-out", "data.eval_path"]),
    "all held out": (["model.path={f}", "data=jsonl", "data.path={f}/config.json", "data.eval_fraction=1"],
                     ["data.eval_fraction is 1", "training"]),
    "more ranks than GPUs": (["cluster.gpus_per_node=2", "parallel.ranks_per_node=4"], ["ranks_per_node=4", "gpus_per_node=2"]),
    "more engines than GPUs": (["cluster.gpus_per_node=2", "rollout.engines_per_node=2", "rollout.tensor_parallel=2"],
                               ["2 x rollout.tensor_parallel=2 = 4", "gpus_per_node=2"]),
    "two metadata servers": (["cluster.etcd_members=2", "cluster.nodes=4"], ["cluster.etcd_members is 2", "1, or 3"]),
    "more metadata servers than nodes": (["cluster.etcd_members=3", "cluster.nodes=2"], ["three nodes", "cluster.etcd_members=1"]),
    "weights by pigeon": (["weights.transport=pigeon"], ["weights.transport", "'pigeon'", "auto, http, mooncake, mpi"]),
    "CUDA without GPUs": (["cluster.gpus_per_node=0", "cluster.device=cuda"], ["cluster.gpus_per_node is 0", "cluster.device=cpu"]),
}  # fmt: skip

PREFLIGHT_CASES = {  # rules that other rooms own
    "sequence parallel alone": (["parallel.sequence_parallel=true"], ["parallel.sequence_parallel", "parallel.tensor > 1"]),
    "tensor does not divide the intermediate size": (
        ["parallel.tensor=2", "parallel.ranks_per_node=2", "model.tiny.intermediate_size=333"], ["parallel.tensor is 2", "333"]),
    "a prior of more successes than trials": (["sampler.prior_successes=3"], ["sampler.prior_successes 3", "prior_trials 1"]),
    "decay over 1": (["sampler.decay=2"], ["sampler.decay is 2", "from 0"]),
    "template without a slot": (["reward.template=foo"], ["reward.template is 'foo'", "ANSWER"]),
    "custom reward that is not there": (["reward.custom=no.such.module:f"], ["reward.custom=no.such.module:f", "No module named 'no'"]),
    "unknown family": (["data.families=[foo]"], ["foo", "bracket, brackets, chain"]),
    "more problems than a family has": (["data.families=[times]"], ["different train problems", "data.train_size"]),
    "a mixture of more than all": (["warmup.guess_fraction=0.8", "warmup.slip_fraction=0.3"], ["warmup.guess_fraction", "at most 1"]),
    "a response that leaves no room for the prompts": (["model.max_context_tokens=98", "rollout.max_response_tokens=96"], ["at most 2"]),
    "heads that do not group": (["model.tiny.num_kv_heads=3"], ["num_kv_heads 3"]),
    "too few prompts": (["data.train_size=8"], ["data.train_size=8", "algo.prompts_per_iteration=64"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PREFLIGHT_CASES)
def test_each_wrong_setting_of_another_room_is_found_before_the_job(name):
    words, expected = PREFLIGHT_CASES[name]
    with pytest.raises(K15Error) as caught:
        preflight(compose_run(words), nodes=1)
    message = str(caught.value)
    assert "\n" not in message and all(e in message for e in expected), message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type.*yarn.*linear, llama3"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias"),
        ({"intermediate_size": None}, "intermediate_size of config.json is None"),
        ({"num_attention_heads": None}, "num_attention_heads in .*config.json is None"),
    ],
)
def test_a_model_that_the_trainer_cannot_build_is_refused_before_the_job(tmp_path, change, expected):
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    (model / "model.safetensors").write_bytes(b"")
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=expected):
        preflight(compose_run([f"model.path={model}"]), nodes=1)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({"weight_map": {"a": "model.safetensors", "b": "lost.safetensors"}}, "has no lost.safetensors"),
        ({"metadata": {}}, "no index of weights"),
        ([1], "no index of weights"),
    ],
)
@pytest.mark.parametrize("command", ["rl", "sft", "eval"])
def test_a_model_that_lacks_a_shard_is_refused_before_the_job(tmp_path, command, index, expected):
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    (model / "model.safetensors").write_bytes(b"")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(K15Error, match=expected):
        cfg = compose_as(COMMANDS[command], command, [f"model.path={model}"])
        Subject.of(cfg) if command == "eval" else model_config(cfg)


def test_a_model_of_curation_with_too_few_positions_is_refused_before_a_row_is_read(tmp_path):
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    (model / "model.safetensors").write_bytes(b"")
    words = [f"sources=[{model}/config.json]", f"engine.path={model}", "hack.enabled=true", f"store={tmp_path}/store"]
    with pytest.raises(ConfigError, match="engine.max_context_tokens=4096 is over the model's max_position_embeddings=192"):
        curate.preflight(compose_as(CurateConfig, "curate", words), nodes=1)


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_log_that_is_not_installed_is_refused_before_the_job(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what an absent package looks like
    with pytest.raises(ConfigError, match=rf"{package} is not installed.*pip install {package}"):
        check(compose_run(["log.wandb_project=p"] if package == "wandb" else []))


def test_what_is_wasteful_is_a_warning(caplog):
    preflight(compose_run(["cluster.gpus_per_node=4", "parallel.ranks_per_node=3", "data.train_size=100"]), nodes=1)
    assert "GPU 3 of each node will be idle in training" in caplog.text
    assert "GPUs 1 to 3 of each node will be idle in rollout" in caplog.text
    assert "100 training prompts, but up to 128 can be in flight" in caplog.text
    caplog.clear()
    preflight(compose_run([]), nodes=1)
    assert not caplog.text


def test_preflight_is_torch_free_and_quick():
    code = (
        "import sys, time; t = time.process_time(); from k15.config.compose import compose_run; "
        "from k15.runs.prepare import preflight; preflight(compose_run([]), nodes=1); "
        "sys.exit(str([m for m in ('torch', 'megatron', 'vllm', 'transformers') if m in sys.modules] or '') "
        "or (time.process_time() - t > 5 and 'slow') or 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_downloaded_model_gets_room_for_its_answers(folder):
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 32768})
    )
    cfg = compose_run(["model=hf", f"model.path={folder}"])
    check(cfg)
    assert (cfg.rollout.max_response_tokens, cfg.rollout.budget_tokens, cfg.model.max_context_tokens) == (2048, 1024, 4096)


@pytest.mark.parametrize("name", CASES)
def test_each_wrong_setting_says_value_rule_and_remedy(name, folder):
    words, expected = CASES[name]
    with pytest.raises(ConfigError) as caught:
        check(compose_run([w.replace("{f}", str(folder)) for w in words]))
    message = str(caught.value)
    assert "\n" not in message and all(e in message for e in expected), message


def test_unknown_model_type_lists_the_known_ones(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ConfigError, match="mamba.*deepseek_v3, llama, mixtral, qwen2, qwen3, qwen3_moe"):
        check(compose_run([f"model.path={folder}"]))


def row(**fields) -> str:
    return json.dumps({"prompt": "1+1=", "answer": "2", **fields}) + "\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", ["train.jsonl", "no usable row"]),
        (row() + "{not json\n", ["train.jsonl", "2", "JSON"]),
        (row() + json.dumps({"prompt": "1+2="}) + "\n", ["2", "answer"]),
        (row(id="a") + row(id="a", prompt="2+2=", answer="4"), ["a", "2"]),
        (row() + "".join(row(prompt="1" * n + "+1=", answer="x") for n in range(2, 120)), ["tokens", "context"]),
        ("".join(row(prompt=f"{n}+1=", domain="poetry") for n in range(99)), ["poetry", "math"]),
        (row(prompt="2+2="), ["train.jsonl", "data.eval_fraction=0.2 holds out none of its 1 prompts", "data.eval_path"]),
    ],
    ids=[
        "empty",
        "not JSON",
        "no answer",
        "duplicate id",
        "prompt longer than the context",
        "unknown domain",
        "nothing held out",
    ],
)
def test_wrong_data_is_refused_before_anything_starts(tmp_path, lines, expected):
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    (model / "model.safetensors").write_bytes(b"")
    data = tmp_path / "train.jsonl"
    data.write_text(lines)
    words = [f"model.path={model}", "data=jsonl", f"data.path={data}", "algo.prompts_per_iteration=8", "data.eval_fraction=0.2"]
    with pytest.raises(K15Error) as caught:
        preflight(compose_run(words), nodes=1)
    message = str(caught.value)
    assert all(e in message for e in expected), message


OUT_OF_RANGE = [
    *(f"{command} {word}" for command in ("rl", "sft", "shortest", "eval", "reward_model") for word in
      ("cluster.cpus_per_task=-4", "cluster.signal_before_s=-1", "cluster.mem_gb=nan")),
    *(f"{command} {word}" for command in ("rl", "shortest", "eval") for word in
      ("sandbox.queue_size=-1", "sandbox.restarts=-1", "sandbox.queue_patience_s=nan")),
    "eval workers=1000000000", "eval lm_eval.num_fewshot=-1", "sft stages.first.epochs=1000000000", "sft data.eval_fraction=1",
    "sft parallel.ranks_per_node=1000000000", "shortest rollout.max_retries=-1", "shortest rollout.budget_tokens=0",
    "shortest data.eval_size=-1", "shortest reward.memory_gb=nan",
]  # fmt: skip


@pytest.mark.parametrize("words", OUT_OF_RANGE)
def test_a_number_that_cannot_be_is_refused_by_every_command(words, tmp_path):
    command, word = words.split()
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    (model / "model.safetensors").write_bytes(b"")
    named = [f"model.path={model}", "model.max_context_tokens=192"]
    more = {"sft": [*named, f"data.paths=[{model}/config.json]"], "eval": named,
            "shortest": [*named, "rollout.max_response_tokens=96"]}.get(command, [])  # fmt: skip
    checks = {"rl": check, "sft": check_sft, "shortest": check_shortest, "eval": lambda cfg: check_eval(cfg, 1),
              "reward_model": check_reward_model}  # fmt: skip
    checks[command](compose_as(COMMANDS[command], command, more))
    key, value = word.split("=")
    with pytest.raises(ConfigError, match=rf"^{key} is {value}(\.0)?[,;] "):
        checks[command](compose_as(COMMANDS[command], command, [*more, word]))


def test_a_path_may_have_any_name_without_quotes_of_its_own():
    names = [
        "données.jsonl",
        "train (1).jsonl",
        "a=b.jsonl",
        "it's.jsonl",
        "a[1].jsonl",
        "a#b.jsonl",
        "~t.jsonl",
        "x y.jsonl",
        "a:b",
    ]

    def read(*words):
        return compose_as(SftConfig, "sft", listed(SftConfig, quoted(words)))

    for name in names:
        assert read(f"data.paths=[{name}]").data.paths == read(f"data.paths={name}").data.paths == [name]
        assert read(f"model.path=/home/josé/{name}").model.path == f"/home/josé/{name}"
        assert quoted(quoted([f"data.paths=[{name}]"])) == quoted([f"data.paths=[{name}]"])
    assert read(f"data.paths=[{','.join(names)}]").data.paths == read(f"data.paths={','.join(names)}").data.paths == names
    assert read("model.path=~/x").model.path == os.path.expanduser("~/x")
    assert read("data.paths=['a,b.jsonl', c d.jsonl,e(1)]").data.paths == ["a,b.jsonl", "c d.jsonl", "e(1)"]
    same = ["algo.tau=0.1,0.2", "a=[1,2]", "sandbox.images={a: /b}", "model.path={sft}/hf", "~data", "x=${y}/z", "--multirun"]
    assert quoted(same) == same
    with pytest.raises(ConfigError, match="cannot be read.*in quotes"):
        read("model.path={a")


def test_the_command_prints_one_message_quickly_and_starts_nothing(tmp_path):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "k15", "rl", "algo.tau=-1"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "k15 rl: algo.tau is -1.0, but it must be greater than 0. Give algo.tau=<a positive number>."
    ]
    assert not list(tmp_path.iterdir()), "a refused run left files"
    assert time.monotonic() - start < 20  # 5 s on an idle machine; tests share theirs


def test_every_point_of_a_sweep_is_checked_before_the_first_is_submitted(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "k15", "rl", "--multirun", "algo.tau=0.1,-1", "hydra/launcher=submitit_slurm"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "algo.tau is -1.0" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [[], ["experiment=arithmetic"], ["reward=length", "sampler=curriculum"], ["algo=rest"], ["cluster=slurm"]]
)
def test_shipped_settings_are_sound_and_survive_the_run_folder(words):
    cfg = compose_run(words)
    check(cfg)
    assert from_yaml(to_yaml(cfg)) == cfg


def test_a_run_folder_with_other_settings_is_refused(tmp_path):
    cfg = compose_run([])
    prepare_folder(cfg, tmp_path)
    (tmp_path / "checkpoints" / "00000-iteration-00000").mkdir(parents=True)
    prepare_folder(compose_run(["algo.iterations=99", "save.every=2"]), tmp_path, RL.may_change)  # these may change
    with pytest.raises(K15Error, match="algo.tau"):
        prepare_folder(compose_run(["algo.tau=0.3"]), tmp_path)


def test_the_tiny_model_is_that_of_the_settings_until_there_is_a_checkpoint(tmp_path):
    """A run that was stopped before its first checkpoint may begin again with others."""

    def shape(*words):
        config = json.loads((model_folder(compose_run(words), tmp_path) / "config.json").read_text())
        return config["hidden_size"], config["max_position_embeddings"]

    assert shape() == (128, 192)
    assert shape("model.tiny.hidden_size=256", "model.max_context_tokens=512") == (256, 512)
    (tmp_path / "checkpoints" / "00000-iteration-00000").mkdir(parents=True)
    written = (tmp_path / "model" / "config.json").stat()
    assert shape("model.tiny.hidden_size=256", "model.max_context_tokens=512") == (256, 512)
    assert (tmp_path / "model" / "config.json").stat() == written


JUDGED = ["reward.judge.rejected=true", "reward.judge.url=http://j1/v1", "reward.judge.model=m"]


@pytest.mark.parametrize(
    ("command", "words", "moved"),
    [
        ("rl", [], ["sandbox.url=http://n2:4100", "sandbox.token_file=/x/u", "sandbox.queue_patience_s=9e4"]),
        ("rl", JUDGED, ["reward.judge.url=http://j2/v1", "reward.judge.timeout_s=900", "reward.judge.concurrency=8"]),
        ("rl", [], ["reward.workers=8", "reward.classic.device=cuda", "algo.lr=1e-5", "algo.micro_batch_tokens=2048"]),
        ("rl", [], ["rollout.gpu_memory_utilization=0.5", "rollout.max_concurrent=32", "rollout.kv_cache_bytes=1000000"]),
        ("rl", [], ["rollout.engines_per_node=2", "parallel.recompute=true", "parallel.offload.optimizer=false"]),
        ("sft", [], ["stages.first.lr=1e-6", "stages.second.final_lr=1e-8", "fit.kernels=torch"]),
        ("dpo", [], ["stage.lr=1e-7", "parallel.recompute=true"]),
    ],
)
def test_a_run_goes_on_where_a_service_has_moved_memory_ran_out_or_the_rate_was_too_high(command, words, moved, tmp_path):
    job = import_module(f"k15.runs.{command}").JOB
    prepare_folder(compose_as(job.kind, command, words), tmp_path, job.may_change)
    (tmp_path / "checkpoints" / "00000-iteration-00005").mkdir(parents=True)
    changed = compose_as(job.kind, command, [*words, *moved])
    prepare_folder(changed, tmp_path, job.may_change)
    assert from_yaml((tmp_path / "config.yaml").read_text(), job.kind) == changed


def test_a_run_does_not_go_on_with_other_verdicts(tmp_path):
    """Neither another model as judge, nor the policy in place of an endpoint, which is why that has no model's name."""
    prepare_folder(compose_run(JUDGED), tmp_path, RL.may_change)
    (tmp_path / "checkpoints" / "00000-iteration-00005").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"other settings \(reward.judge.model\)"):
        prepare_folder(compose_run([*JUDGED, "reward.judge.model=n"]), tmp_path, RL.may_change)
    with pytest.raises(ConfigError, match="reward.judge.model=m is a name at an endpoint"):
        check(compose_run([*JUDGED, "reward.judge.url=engines"]))


@pytest.mark.parametrize("command", ["rl", "sft", "dpo"])
def test_what_a_resumed_run_may_change_are_settings(command):
    job = import_module(f"k15.runs.{command}").JOB
    cfg = job.kind()
    for name in job.may_change:
        attrgetter(name)(cfg)
