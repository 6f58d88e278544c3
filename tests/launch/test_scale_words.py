"""What a user of `k15 scale` types wrong, before anything is asked of Slurm."""

import json
import re

import pytest

from k15.config.compose import compose_run, to_yaml
from k15.errors import ConfigError, DataError
from k15.launch.scale import main, settings, target


@pytest.fixture(scope="module")
def settings_text():
    return to_yaml(compose_run(["cluster.partition=gpu", "cluster.nodes=4"]))


@pytest.fixture
def run(tmp_path, monkeypatch, settings_text):
    """A run folder in a user's working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(settings_text)
    return folder


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["nowhere", "+1"], DataError, r"nowhere is no run folder.*no config\.yaml"),
        (["mine"], ConfigError, "needs a run folder and a number"),
        (["mine", "+1"], ConfigError, r"is not running.*\.job-.*k15 status"),
        (["mine", "+1", "cluster.tme_min=3"], ConfigError, r"tme_min.*Did you mean 'time_min'"),
        (["mine", "+1", "time_min=3"], ConfigError, r"'time_min=3'.*cluster\.NAME=value"),
        (["mine", "+1", "cluster.time_min=long"], ConfigError, "long"),
        (["mine", "+1", "cluster.rejoin_min=-1"], ConfigError, "rejoin_min is -1.0.*at least 0"),
    ],
)
def test_wrong_words(run, words, kind, said):
    with pytest.raises(kind) as error:
        main(words)
    assert re.search(said, str(error.value), re.S), error.value


def test_a_run_outside_slurm_is_told_apart(run):
    (run / ".job-local-77-0.json").write_text(json.dumps({"head_address": "127.0.0.1"}))
    with pytest.raises(ConfigError, match="runs outside Slurm"):
        main(["mine", "+1"])


def test_the_runs_own_settings_but_for_one_node_that_is_not_requeued(run):
    cluster = settings(run, ["cluster.time_min=7"])
    assert (cluster.partition, cluster.time_min, cluster.nodes, cluster.requeue) == ("gpu", 7, 1, False)
    assert cluster.rejoin_min == 10 and settings(run, ["cluster.requeue=false"]).rejoin_min == 0, "nothing to wait for"


def test_a_fixed_mpi_world_takes_no_node(run, settings_text):
    (run / "config.yaml").write_text(settings_text.replace("transport: auto", "transport: mpi"))
    with pytest.raises(ConfigError, match=r"weights\.transport=mpi.*no other can join"):
        main(["mine", "+1"])


@pytest.mark.parametrize(("word", "wanted"), [("+2", 7), ("-1", 4), ("3", 3), ("9", 9), ("-2", 3), ("+0", 5)])
def test_numbers(word, wanted):
    assert target(word, training=3, visiting=2) == wanted


@pytest.mark.parametrize(
    ("word", "said"), [("-3", "3 train.*-1 to -2"), ("2", "Allowed: 3 or more"), ("one", "'one'"), ("+1.5", "1.5")]
)
def test_numbers_that_cannot_be(word, said):
    with pytest.raises(ConfigError, match=said):
        target(word, training=3, visiting=2)
