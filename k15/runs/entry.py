"""What every Hydra app of k15 does around its own `run`."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from k15.config.commands import COMMANDS
from k15.config.compose import typed
from k15.errors import K15Error, system_error
from k15.log.sweep import mark_finished
from k15.node.rendezvous import JobIdentity

INTERRUPTED = 130  # as shells have it: 128 + SIGINT
POINT = "K15_SWEEP_POINT"  # k15.launch.sweep has the same: this is a point of a sweep, and the folder is to say that it is done


def enter(command: str, config: DictConfig, run: Callable[[Any], int]) -> int:
    """`run` on the typed config; ends the process with its exit code where that is not 0, 2 for an error raised on purpose,
    130 for Ctrl-C, 1 for an error of the system.

    A multirun point gets Hydra's folder of that point as its run folder.
    """
    logging.getLogger().handlers.clear()  # Hydra's own; k15's lines have their form
    code = 2
    try:
        cfg = typed(config, COMMANDS[command])
        if cfg.run_dir is None and HydraConfig.get().mode == RunMode.MULTIRUN:
            cfg.run_dir = HydraConfig.get().runtime.output_dir
        code = run(cfg)
        if code == 0 and POINT in os.environ and not cfg.dry_run and JobIdentity.from_environment().node_rank == 0:
            mark_finished(Path(os.environ[POINT]))
    except K15Error as error:  # here, since Hydra would print its own traceback
        print(f"k15 {command}: {error}", file=sys.stderr)
    except OSError as error:
        if (said := system_error(error)) is None:
            raise
        print(f"k15 {command}: {said}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:  # a traceback would hide what the run has said of going on
        print(f"k15 {command}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    if code:
        sys.exit(code)
    return code
