"""slurm/*.sbatch on a real Slurm, and what their shared shell chooses from what a machine has."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster, wait_for
from safetensors.numpy import save_file

from k15.config.commands import COMMANDS
from k15.config.schema import TinyModelConfig
from k15.data.tiny import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "slurm"
TEMPLATES = sorted(FOLDER.glob("*.sbatch"))


def shell(code: str, tmp_path: Path, **env: object) -> subprocess.CompletedProcess:
    """bash with the preamble sourced and stand-ins of programs in `tmp_path`/bin first on PATH."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "K15_", "NCCL_", "UCX_", "FI_", "CUDA_"))}
    base |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "K15_REPO": str(ROOT), **{k: str(v) for k, v in env.items()}}
    text = f"set -u; source {FOLDER}/preamble.sh; {code}"
    return subprocess.run(["bash", "-c", text], env=base, capture_output=True, text=True, timeout=30)


def program(tmp_path: Path, name: str, body: str) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
    (tmp_path / "bin" / name).chmod(0o755)


def test_there_is_a_template_for_every_command_and_shellcheck_finds_nothing() -> None:
    names = {t.stem for t in TEMPLATES}
    assert names == {*COMMANDS, "sandbox", "pretrain", "long2short"}
    assert shutil.which("shellcheck"), "apt-get install shellcheck"
    done = subprocess.run(["shellcheck", *TEMPLATES, *FOLDER.glob("*.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    bodies = {t: t.read_text().split("# Hooks; ")[1].split("\nk15_main")[0] for t in TEMPLATES if t.stem != "sandbox"}
    assert len(set(bodies.values())) == 1, "the templates differ in what they share"


def ib(sys_folder: Path, name: str, state: str, driver: str = "mlx5_core") -> None:
    (sys_folder / "class" / "infiniband" / name / "ports" / "1").mkdir(parents=True)
    (sys_folder / "class" / "infiniband" / name / "ports" / "1" / "state").write_text(state)
    (sys_folder / "class" / "infiniband" / name / "device").mkdir()
    (sys_folder / "class" / "infiniband" / name / "device" / "driver").symlink_to(f"../../../bus/drivers/{driver}")


def test_the_fabric_decides_and_what_is_set_stays(tmp_path: Path) -> None:
    def chosen(folder: Path, code: str = "k15_fabric; env", **env: object) -> tuple[str, dict[str, str]]:
        done = shell(code, tmp_path, K15_SYS=folder, **env)
        assert done.returncode == 0, done.stderr
        line, _, rest = done.stdout.partition("\n")
        return line, dict(pair.split("=", 1) for pair in rest.splitlines() if "=" in pair)

    ib(tmp_path / "mixed", "mlx5_0", "4: ACTIVE")
    ib(tmp_path / "mixed", "mlx5_1", "1: DOWN")
    ib(tmp_path / "mixed", "mlx5_2", "4: ACTIVE")
    ib(tmp_path / "efa", "rdmap0s6", "4: ACTIVE", "efa")
    (tmp_path / "cray" / "class" / "cxi" / "cxi0").mkdir(parents=True)
    ib(tmp_path / "down", "mlx5_0", "1: DOWN")
    line, env = chosen(tmp_path / "mixed")
    assert line == "k15: fabric infiniband: NCCL_IB_HCA==mlx5_0:1,mlx5_2:1 UCX_NET_DEVICES=mlx5_0:1,mlx5_2:1"
    assert env["NCCL_IB_HCA"] == "=mlx5_0:1,mlx5_2:1"
    assert chosen(tmp_path / "efa")[1]["FI_PROVIDER"] == "efa"
    _, env = chosen(tmp_path / "cray", NCCL_SOCKET_IFNAME="mine0")
    assert (env["FI_PROVIDER"], env["GLOO_SOCKET_IFNAME"], env["NCCL_SOCKET_IFNAME"]) == ("cxi", "hsn0", "mine0")
    assert chosen(tmp_path / "down")[1]["NCCL_IB_DISABLE"] == "1"
    assert chosen(tmp_path / "mixed", K15_FABRIC="sockets")[1]["NCCL_IB_DISABLE"] == "1"
    assert "NCCL_IB_HCA" not in chosen(tmp_path / "mixed", "k15_fabric; echo; env", K15_FABRIC="none")[1]
    wrong = shell("k15_fabric", tmp_path, K15_FABRIC="ethernet")
    assert wrong.returncode == 2 and "'ethernet'" in wrong.stderr and "Allowed: auto" in wrong.stderr


def test_one_variable_chooses_the_environment(tmp_path: Path) -> None:
    say = 'k15_python; k15_container; echo "python=$K15_PYTHON"; printf "<%s>" "${K15_WRAP[@]}" "${K15_INSIDE[@]}"'

    def ran(k15_env: str, **env: object) -> str:
        done = shell(f"cd {tmp_path}; {say}", tmp_path, K15_ENV=k15_env, **env)
        return done.stdout if done.returncode == 0 else f"{done.returncode} {done.stderr}"

    conda = tmp_path / "conda"
    (conda / "etc" / "profile.d").mkdir(parents=True)
    (conda / "etc" / "profile.d" / "conda.sh").write_text('conda() { export CONDA_PREFIX="$FAKE/envs/$2"; }\n')
    python = conda / "envs" / "mine" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    program(tmp_path, "conda", f"echo {conda}")
    program(tmp_path, "apptainer", "exit 0")
    program(tmp_path, "srun", "echo usage --container-image")
    assert f"python={sys.prefix}/bin/python\n" in ran(f"venv:{sys.prefix}")
    module = "module() { shift; echo loaded $*; }"
    found = ran("modules:gcc/13,cuda/12.8+conda:mine", FAKE=conda, K15_SETUP=module)
    assert found.startswith("loaded gcc/13 cuda/12.8\n") and f"python={python}\n" in found
    pyxis = ran("pyxis:ghcr#k15:1", K15_MOUNTS="/data:/data")
    mounts = f"{tmp_path}:{tmp_path},{ROOT}:{ROOT},/data:/data"
    assert "python=python3\n" in pyxis and f"<--container-image=ghcr#k15:1><--container-mounts={mounts}>" in pyxis
    inside = ran("apptainer:k15.sif", SLURM_JOB_GPUS="0")
    assert f"<apptainer><exec><--bind><{tmp_path}:{tmp_path},{ROOT}:{ROOT}><--pwd><{tmp_path}><--nv><k15.sif>" in inside
    for wrong, message in (
        ("docker:k15", "Allowed: venv, conda, modules, pyxis, apptainer"), ("conda", "KIND:NAME"),
        ("venv:/nowhere", "there is no /nowhere/bin/python"), ("modules:x", "no `module`"),
    ):  # fmt: skip
        said = ran(wrong)
        assert said.startswith("2 ") and message in said, said


def tiny_model(folder: Path) -> Path:
    """A Hugging Face folder of one layer with random weights, for all that read one."""
    shape = TinyModelConfig(num_layers=1)
    write_tiny_model(folder, shape, 192)
    h, inner, kv = shape.hidden_size, shape.intermediate_size, shape.hidden_size // shape.num_heads * shape.num_kv_heads
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    layer = {
        "self_attn.q_proj.weight": (h, h), "self_attn.k_proj.weight": (kv, h), "self_attn.v_proj.weight": (kv, h),
        "self_attn.q_proj.bias": (h,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,),
        "self_attn.o_proj.weight": (h, h), "mlp.gate_proj.weight": (inner, h), "mlp.up_proj.weight": (inner, h),
        "mlp.down_proj.weight": (h, inner), "input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,),
    }  # fmt: skip
    shapes = {f"model.layers.0.{name}": found for name, found in layer.items()}
    shapes |= {"model.embed_tokens.weight": (vocabulary, h), "model.norm.weight": (h,), "lm_head.weight": (vocabulary, h)}
    draw = np.random.default_rng(0)
    weights = {n: draw.normal(n.endswith("norm.weight"), 0.05, s).astype(np.float32) for n, s in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_rows(path: Path, *rows: dict) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# What shows that a template's command has done its work, below the folder of the jobs. `rl` only checks its settings here, since
# test_rl_on_slurm.py and test_scale.py run it; and so does `long2short`, which is `rl` with an experiment.
DONE = {
    "sft": "runs/sft_tiny-*/hf/model.safetensors", "pretrain": "runs/pretrain_tiny-*/hf/model.safetensors",
    "dpo": "runs/dpo_tiny-*/hf/model.safetensors", "reward_model": "runs/reward_model-classic-*/spot_check.md",
    "shortest": "runs/shortest_tiny/summary.json", "long_cot": "runs/long_cot/summary.json", "eval": "runs/eval-*/results.json",
    "curate": "prompts/v1/manifest.json",
}  # fmt: skip


@pytest.mark.slurm
@pytest.mark.vllm
@pytest.mark.megatron
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_template_is_taken_and_runs(slurm_cluster: Cluster, tmp_path: Path) -> None:
    """All at once on the two nodes, each at its smallest."""
    write_rows(tmp_path / "rows.jsonl", {"prompt": "How many primes are below 10?", "answer": "4"})
    write_rows(tmp_path / "asked.jsonl", *({"prompt": f"1+{i}", "answer": str(1 + i)} for i in range(4)))
    write_rows(tmp_path / "text.jsonl", *({"text": f"{i}+1={i + 1}, " * 30} for i in range(20)))
    write_rows(tmp_path / "pairs.jsonl", *({"prompt": f"{i}+1", "chosen": f"#{i + 1}", "rejected": "1+1=2"} for i in range(20)))
    model = f"model.path={tiny_model(tmp_path / 'model')}"
    answers = [model, "data=jsonl", "data.path=asked.jsonl", "samples=2", "rollout.max_response_tokens=8",
               "rollout.kv_cache_bytes=33554432"]  # fmt: skip
    few = ["log.tensorboard=false", "eval.size=4"]
    words = {
        "rl": ["dry_run=true"], "long2short": ["dry_run=true"],
        "sft": ["experiment=sft_tiny", "data.arithmetic=100", "model.tiny.num_layers=1", *few],
        "pretrain": ["experiment=pretrain_tiny", model, "data.paths=[text.jsonl]", *few],
        "dpo": ["experiment=dpo_tiny", model, "data.paths=[pairs.jsonl]", "data.eval_fraction=0.2", *few],
        "reward_model": ["kind=classic", "fit.steps=2", "data.train_size=64", "data.eval_size=20", "data.calibration_size=20",
                         "model.tiny.num_layers=1"],
        "shortest": ["experiment=shortest_tiny", *answers],
        "long_cot": [*answers, "model.chat=false", "model.dtype=float32", "model.max_context_tokens=192"],
        "eval": [model, "tasks=arithmetic", "limit=4", "sampling.max_tokens=8", "engine.kv_cache_bytes=33554432"],
        "curate": ["sources=[rows.jsonl]"], "sandbox": ["--require=files", "--workers=1"],
    }  # fmt: skip
    assert set(words) == {t.stem for t in TEMPLATES} == {*DONE, "rl", "long2short", "sandbox"}
    cluster = replace(slurm_cluster, env={**slurm_cluster.env, "K15_ENV": f"venv:{sys.prefix}", "OMP_NUM_THREADS": "1"})
    jobs = {}
    for template in TEMPLATES:
        cluster.run("sbatch", "--test-only", template)
        options = [f"--chdir={tmp_path}", f"--output={template.stem}.log"]
        jobs[template.stem] = cluster.sbatch(template, *options, words=words[template.stem])
    sandbox = jobs.pop("sandbox")
    for name, job in jobs.items():
        end = cluster.wait_job(job, timeout=600)
        log = (tmp_path / f"{name}.log").read_text()
        assert end["JobState"] == "COMPLETED" and end["JobName"] == f"k15-{name}", log
        assert log.startswith("k15: fabric ")
        assert name not in DONE or list(tmp_path.glob(DONE[name])), f"{name} has left no {DONE[name]}: {log}"
    url = wait_for(lambda: (f := tmp_path / f"sandbox-{sandbox}.url").exists() and f.read_text().strip(), 60, "the sandbox")
    token = tmp_path / f"sandbox-{sandbox}.token"
    assert token.stat().st_mode & 0o077 == 0
    look = (
        "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], headers={'Authorization': sys.argv[2]})).status)"
    )
    words = [sys.executable, "-c", look, f"{url}/health", f"Bearer {token.read_text()}"]
    assert cluster.run("srun", "--ntasks=1", *words, timeout=90).strip() == "200"  # names of nodes mean nothing out here
    cluster.run("scancel", sandbox)
    launched = subprocess.run(
        [sys.executable, "-P", "-m", "k15", "launch", "sandbox", "cluster.kind=slurm", "--require=files", "--workers=1"],
        env=cluster.env, cwd=tmp_path, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    job = launched.stdout.split(":")[0].removeprefix("sandbox-")
    wait_for(
        lambda: (f := tmp_path / f"sandbox-{job}.url").exists() and f.read_text().strip(), 60, "the sandbox that was launched"
    )
    cluster.run("scancel", job)
