"""Ranks under their controller's commands: who waits for whom, and for how long."""

import datetime
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client
from pathlib import Path
from typing import ClassVar

import pytest
import torch.distributed as dist
from cluster import wait_for
from torch.distributed.distributed_c10d import _set_pg_timeout
from train_ranks import on_ranks

TOKEN = "token"


class SlowFiles:
    """A trainer and the metadata store: `onload` gives the group of the training collectives a timeout that `save` outlasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, value: str) -> None:
        (self.folder / "address.tmp").write_text(value)
        (self.folder / "address.tmp").rename(self.folder / "address")

    def onload(self) -> None:
        _set_pg_timeout(datetime.timedelta(seconds=1))

    def save(self, folder: Path) -> None:
        time.sleep(2.5 * dist.get_rank())
        (folder / f"rank-{dist.get_rank()}").write_text("weights")


def serving(folder: str) -> None:
    from k15.runs import trainer_rank

    def slow_export(target: Path, *_: object, **__: object) -> None:
        time.sleep(2.5)
        (target / "exported").write_text("weights")

    trainer_rank.save_hf = slow_export
    rank = object.__new__(trainer_rank.Rank)
    rank.rank, rank.hf_config, rank.model_dir = dist.get_rank(), {}, Path(folder)
    rank.store = rank.trainer = SlowFiles(Path(folder))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    trainer_rank.serve(rank, TOKEN)
    _set_pg_timeout(datetime.timedelta(seconds=300))


def command(folder: Path) -> list[set[str]]:
    """What lies in `folder` after each answer."""
    address, found = folder / "address", []
    wait_for(address.is_file, 120, "rank 0's address")
    where = json.loads(address.read_text())
    with Client((where["host"], where["port"]), authkey=TOKEN.encode()) as rank_0:
        for words in (
            ("onload", {}),
            ("export_hf", {"paths": [], "folder": str(folder), "iteration": 1}),
            ("save", {"folder": str(folder)}),
        ):
            rank_0.send(words)
            rank_0.recv()
            found.append({p.name for p in folder.iterdir() if p.name.startswith(("rank-", "exported"))})
        rank_0.send(("stop", {}))
        rank_0.recv()
    return found


def exporting(folder: str) -> bool:
    """What `k15 reward_model` does at its end, with the same timeout for collectives."""
    from k15.runs import reward_fit

    def slow_export(target: Path, *_: object) -> None:
        time.sleep(2.5)
        target.mkdir()

    class Trained:
        hf_config: ClassVar[dict] = {}

        def hf_slices(self) -> tuple:
            return ()

    reward_fit.save_hf = slow_export
    dist.barrier()
    _set_pg_timeout(datetime.timedelta(seconds=1))
    reward_fit._export(Trained(), Path(folder), Path(folder))
    _set_pg_timeout(datetime.timedelta(seconds=300))
    return Path(folder, "export").is_dir()


def both(folder: str) -> bool:
    serving(folder)
    return exporting(folder)


@pytest.mark.megatron
def test_ranks_wait_for_files_longer_than_for_a_collective_and_rank_0_answers_for_all(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(command, tmp_path)
        assert on_ranks(2, both, tmp_path, str(tmp_path)) == [True, True]
        assert asked.result() == [set(), {"exported"}, {"exported", "rank-0", "rank-1"}]
