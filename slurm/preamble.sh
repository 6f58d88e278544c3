# shellcheck shell=bash
# The body of a k15 job. The scripts beside it source it; `k15 launch --dry-run` writes it into the script that it prints.
#
#   k15_job COMMAND...   runs COMMAND once on every node of the allocation and ends with the highest of their exit codes.
#
# Slurm signals this shell (--signal=B:USR1@seconds) before the time is up, and COMMAND gets USR1 on each node. A job that
# has then saved everything ends with 85, and is put back into the queue if it may be (--requeue).
#
# USR1 must reach COMMAND and nothing below it, but a signal to a step goes to every process of the step (engines, reward
# workers), whatever its group or session. So the step is sent USR2, which all of them ignore (an ignored signal is
# inherited) except a shell above COMMAND, and that sends USR1 to COMMAND alone.

K15_REQUEUE_CODE=85

export PYTHONSAFEPATH=1 # the folder of a script or of the user must not shadow installed packages
export PYTHONUNBUFFERED=1

# Runs the K15_SETUP of a script and fills K15_PYTHON: that of the container, or of the virtual environment of K15_REPO.
k15_python() {
  eval "$K15_SETUP"
  if [[ -n $K15_CONTAINER ]]; then
    K15_PYTHON=${K15_PYTHON:-python3}
    K15_MOUNTS=$K15_REPO:$K15_REPO${K15_MOUNTS:+,$K15_MOUNTS}
  else
    K15_VENV=${K15_VENV:-$K15_REPO/.venv}
    K15_PYTHON=${K15_PYTHON:-$K15_VENV/bin/python}
    if ! command -v "$K15_PYTHON" >/dev/null; then
      echo "k15: there is no $K15_PYTHON; run \`make setup\` in $K15_REPO, or set K15_VENV or K15_CONTAINER" >&2
      exit 2
    fi
  fi
}

# Fills K15_WRAP (options of srun) and K15_INSIDE (words before the command) from K15_CONTAINER and K15_MOUNTS.
k15_container() {
  local mounts="$PWD:$PWD${K15_MOUNTS:+,$K15_MOUNTS}" # the submitting folder holds runs/
  K15_WRAP=() K15_INSIDE=()
  [[ -n ${K15_CONTAINER:-} ]] || return 0
  if srun --help 2>/dev/null | grep -q -- --container-image; then
    K15_WRAP=(--container-image="$K15_CONTAINER" --container-mounts="$mounts" --container-workdir="$PWD")
  elif command -v apptainer >/dev/null; then
    K15_INSIDE=(apptainer exec --bind "$mounts" --pwd "$PWD")
    [[ -z ${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-} ]] || K15_INSIDE+=(--nv)
    K15_INSIDE+=("$K15_CONTAINER")
  else
    echo "k15: K15_CONTAINER is set, but neither Slurm's pyxis plugin nor apptainer is here" >&2
    return 1
  fi
}

# Waits for process $1 (and through signals, which end `wait`); returns its exit code.
k15_wait() {
  local code
  while :; do
    K15_SIGNALLED=
    wait "$1"
    code=$?
    [[ -n $K15_SIGNALLED ]] || return "$code"
  done
}

# One node's task: COMMAND with USR2 ignored, below a shell that turns USR2 into USR1.
k15_node() {
  local command
  trap 'K15_SIGNALLED=1; kill -USR1 "$command"' USR2
  (trap '' USR2 && exec "$@") &
  command=$!
  k15_wait "$command"
}

k15_job() {
  local step code
  k15_container || return 1
  # No node is killed because another one ended: on the signal all save. Those left after 300 s are.
  srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    --kill-on-bad-exit=0 --wait=300 "${K15_WRAP[@]}" \
    bash -c "$(declare -f k15_wait k15_node); k15_node \"\$@\"" k15_node "${K15_INSIDE[@]}" "$@" &
  step=$!
  trap 'K15_SIGNALLED=1; kill -USR2 "$step"' USR1
  k15_wait "$step"
  code=$?
  trap - USR1
  if ((code == K15_REQUEUE_CODE)) && scontrol show job "$SLURM_JOB_ID" | grep -q 'Requeue=1'; then
    echo "k15: saved; back into the queue (run $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID ends here)"
    scontrol requeue "$SLURM_JOB_ID" || echo "k15: Slurm refused to requeue the job; submit the same words again to go on" >&2
  fi
  return "$code"
}
