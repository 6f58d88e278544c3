"""A chain's settings are checked before its first job: also of stages that start from what earlier ones will make."""

from pathlib import Path

import pytest

from k15.cli import check_chain
from k15.errors import ConfigError
from k15.launch.pipeline import stages

SHORTEST = """\
stages:
  - {name: sft, command: sft, settings: [experiment=sft_tiny]}
  - {name: short, command: shortest, settings: [experiment=shortest_tiny, "model.path={sft}/hf"]}
  - {name: again, command: sft, settings: [experiment=sft_tiny, data.arithmetic=0, "model.path={sft}/hf",
      "data.paths=[{short}/shortest.jsonl]", %s]}
"""


def test_the_default_chain_and_one_that_reads_files_of_an_earlier_stage(tmp_path: Path) -> None:
    check_chain(stages([f"run_dir={tmp_path}/chain"]))
    (tmp_path / "chain.yaml").write_text(SHORTEST % "seed=1")
    check_chain(stages([f"{tmp_path}/chain.yaml", f"run_dir={tmp_path}/chain"]))
    assert not (tmp_path / "chain").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rl.save.every=5", "rl.eval.every=1"], "stage rl: save.exports=best chooses"),
        (["sft.model.tiny.num_layers=3", "long2short.parallel.pipeline=2", "long2short.parallel.ranks_per_node=2"],
         "stage long2short: .*3 layers"),
        (["eval.sampling.max_tokens=999"], "stage eval: .*999 are asked for"),
        (["sft.stages.first.lr=0"], "stage sft: stages.first.lr"),
    ],
)  # fmt: skip
def test_what_a_later_stage_would_refuse_is_refused_now(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        check_chain(stages([f"run_dir={tmp_path}/chain", *words]))


def test_a_wrong_setting_beside_a_file_that_is_to_come(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(SHORTEST % "data.turns=first")
    with pytest.raises(ConfigError, match="stage again: data.turns"):
        check_chain(stages([f"{tmp_path}/chain.yaml", f"run_dir={tmp_path}/chain"]))
