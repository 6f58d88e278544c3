"""One trainer rank as a process: Megatron (train) meets the weight segments (weights), driven by the controller.

    controller --socket--> rank 0 --gloo broadcast--> all ranks: run the same method, rank 0 answers once all are done

The process lives as long as the job; between training phases, and for ranks that are slower with their files, it waits on a
process group whose timeout is longer than any rollout phase and any export. An exception on any rank ends that process: the
agent reports it, the controller stops.

Run as `python -m k15.runs.trainer_rank RUN_DIR MODEL_DIR`, with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, K15_NODE_RANK,
K15_DEVICE, K15_RENDEZVOUS (path of the rendezvous file) and K15_SEGMENT_DIR in the environment.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Listener
from pathlib import Path

import torch
import torch.distributed as dist

from k15.config.commands import COMMANDS
from k15.config.compose import from_yaml
from k15.config.dpo import DpoConfig
from k15.config.trainer import trainer_settings
from k15.log import get_logger
from k15.node.rendezvous import Rendezvous
from k15.runs.trainer_client import ADDRESS_KEY
from k15.train.device import init_distributed, patient_group, pick_device
from k15.train.offload import used_bytes
from k15.train.preference import Preference, PreferenceTrainer
from k15.train.trainer import Trainer
from k15.weights.buffers import Workspace
from k15.weights.hf import save_hf
from k15.weights.layout import Slice, to_hf
from k15.weights.segments import load_manifest, read_segment, write_segment
from k15.weights.store import Store

log = get_logger("trainer")


class Rank:
    """The methods that the controller may call, each run by all ranks in lockstep."""

    def __init__(self, run_dir: Path, model_dir: Path, rendezvous: Rendezvous) -> None:
        cfg = from_yaml((run_dir / "config.yaml").read_text(), COMMANDS[os.environ["K15_COMMAND"]])
        self.settings = trainer_settings(cfg)
        self.model_dir = model_dir
        self.node = int(os.environ["K15_NODE_RANK"])
        self.segment_dir = Path(os.environ["K15_SEGMENT_DIR"])
        self.workspace = Workspace(self.segment_dir, keep=os.environ["K15_WEIGHTS_SPARE"] == "1")
        self.store = Store(rendezvous.etcd, f"/k15/{rendezvous.job}", password=rendezvous.etcd_password)
        self.rank = dist.get_rank()
        self.hf_config = json.loads((model_dir / "config.json").read_text())
        kind = PreferenceTrainer if isinstance(cfg, DpoConfig) else Trainer
        self.trainer = kind(
            self.hf_config,
            parallel=self.settings.parallel,
            algo=self.settings.algo,
            dtype=self.settings.dtype,
            device=pick_device(os.environ["K15_DEVICE"], int(os.environ["LOCAL_RANK"])),
            seed=self.settings.seed,
            temperature=self.settings.temperature,
        )
        self.first_twin_here = self._first_twin_here()

    def _first_twin_here(self) -> bool:
        """Is this the lowest rank of its node that holds these shards? Then it gives them to the node's engines."""
        mine = (self.node, self.trainer.model_parallel_rank(), self.rank)
        every: list[tuple] = [None] * dist.get_world_size()  # type: ignore[list-item]
        dist.all_gather_object(every, mine)
        return self.rank == min(rank for node, shards, rank in every if (node, shards) == mine[:2])

    def init(self, source: str) -> None:
        """`random`: fresh weights from the run's seed; `hf`: from the model folder."""
        if source == "random":
            self.trainer.init_random(self.settings.seed)
        else:
            self.trainer.load_hf(self.model_dir)

    def sft_step(self, samples, lr, micro_batch_tokens=None):
        return self.trainer.sft_step(samples, lr, micro_batch_tokens)

    def sft_loss(self, samples):
        return self.trainer.sft_loss(samples)

    def sequence_logprobs(self, samples):
        return self._pairs().sequence_logprobs(samples)

    def preference_step(self, samples, reference, lr, preference, micro_batch_tokens=None):
        return self._pairs().preference_step(samples, reference, lr, Preference(**preference), micro_batch_tokens)

    def preference_loss(self, samples, reference, preference):
        return self._pairs().preference_loss(samples, reference, Preference(**preference))

    def _pairs(self) -> PreferenceTrainer:
        assert isinstance(self.trainer, PreferenceTrainer), "only the ranks of `k15 dpo` learn from pairs"
        return self.trainer

    def reset_optimizer(self) -> None:
        self.trainer.optimizer.reset()

    def train_iteration(self, batch):
        return self.trainer.train_iteration(batch)

    def logprobs(self, sequences, temperature=1.0):
        return self.trainer.logprobs(sequences, temperature=temperature)

    def publish(self, version: int) -> int:
        """Write this rank's shards under Hugging Face names and register them; returns the bytes of rank 0's segment."""
        manifest = write_segment(
            self.segment_dir, version, self.rank, self._slices(), node=str(self.node), workspace=self.workspace
        )
        if manifest.entries:  # registered for as long as this node's agent lives, in whose folder the segment is
            self.store.register_manifest(version, manifest, self.store.lease_of(f"agents/{self.node}"))
        return manifest.nbytes

    def _slices(self) -> Iterator[Slice]:
        """What this rank exports: over all ranks of a node (no experts split), or of the job, each element once.

        Experts are split over other ranks than the rest: where that makes a difference, each shard has one owner in the job.
        """
        trainer = self.trainer
        if trainer.shape.experts and self.settings.parallel.expert * self.settings.parallel.tensor > 1:
            yield from trainer.hf_slices()
        elif self.first_twin_here:
            for name, tensor in trainer.named_parameters_local():
                yield from to_hf(self.hf_config, name, tensor, *trainer.shard_of(name))

    def export_hf(self, paths: list[str], folder: str, iteration: int) -> None:
        """Rank 0 writes a Hugging Face folder from the segments at `paths` (all of one version), the weights of `iteration`."""
        if self.rank == 0:
            slices = (piece for p in map(Path, paths) for piece in read_segment(p, load_manifest(p)))
            save_hf(Path(folder), self.hf_config, self.model_dir, slices, iteration=iteration)

    def save(self, folder: str) -> None:
        self.trainer.save(Path(folder))

    def load(self, folder: str) -> None:
        self.trainer.load(Path(folder))

    def offload(self) -> dict[str, float]:
        """Bytes of tensors freed on rank 0, and by how much its used memory fell."""
        before = used_bytes(self.trainer.device)
        freed = self.trainer.offload()
        return {"offload_bytes": float(freed), "offload_measured_bytes": float(before - used_bytes(self.trainer.device))}

    def onload(self) -> None:
        self.trainer.onload()


METHODS = frozenset(name for name in vars(Rank) if not name.startswith("_"))


def serve(rank: Rank, token: str) -> None:
    """Take commands until `stop`. Rank 0 listens and publishes its address in the metadata store."""
    control = patient_group()
    connection = None
    if rank.rank == 0:
        listener = Listener((os.environ["MASTER_ADDR"], 0), authkey=token.encode())
        host, port = listener.address
        rank.store.put(ADDRESS_KEY, json.dumps({"host": host, "port": port}))
        connection = listener.accept()
    while True:
        box = [connection.recv() if connection is not None else None]
        dist.broadcast_object_list(box, src=0, group=control)
        method, arguments = box[0]
        if method == "stop":
            break
        assert method in METHODS, method
        result = getattr(rank, method)(**arguments)
        dist.barrier(group=control)  # a checkpoint is whole, a version registered, when rank 0 says so
        if connection is not None:
            connection.send(("ok", result))
    if connection is not None:
        connection.send(("ok", None))


def main() -> int:
    run_dir, model_dir = Path(sys.argv[1]), Path(sys.argv[2])
    rendezvous = Rendezvous(**json.loads(Path(os.environ["K15_RENDEZVOUS"]).read_text()))
    device = pick_device(os.environ["K15_DEVICE"], int(os.environ["LOCAL_RANK"]))
    init_distributed(
        device,
        rank=int(os.environ["RANK"]),
        world=int(os.environ["WORLD_SIZE"]),
        master=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
    )
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        serve(Rank(run_dir, model_dir, rendezvous), rendezvous.token)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # no destroy_process_group here: it would wait for ranks that wait for this one
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
