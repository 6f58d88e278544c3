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

# Beside this file, unless it is written into the same script.
# shellcheck disable=SC1091
declare -F k15_fabric >/dev/null || source "${BASH_SOURCE[0]%/*}/fabric.sh"

# The environment of the command by K15_ENV, parts joined by +, from the left (all but the image run on the batch node only,
# and srun takes the variables along):
#   venv:FOLDER  conda:NAME  modules:NAME,NAME  pyxis:IMAGE  apptainer:IMAGE.sif       modules:cuda/12.8+conda:k15
# Fills K15_VENV, K15_PYTHON, K15_CONTAINER and K15_RUNTIME.
k15_environment() {
  local part parts name names kind base
  IFS=+ read -ra parts <<<"${K15_ENV:-}"
  for part in "${parts[@]}"; do
    kind=${part%%:*} name=${part#*:}
    if [[ $part != *:?* ]]; then
      echo "k15: K15_ENV has '$part', which names nothing; write it as KIND:NAME, for example conda:k15" >&2
      exit 2
    fi
    case $kind in
      venv) K15_VENV=$name ;;
      modules)
        if ! declare -F module >/dev/null; then
          echo "k15: K15_ENV has modules, but this shell has no \`module\`; source its set-up in K15_SETUP" >&2
          exit 2
        fi
        IFS=, read -ra names <<<"$name"
        module load "${names[@]}" || exit 2
        ;;
      conda)
        if ! base=$(conda info --base); then
          echo "k15: K15_ENV has conda, but \`conda info --base\` fails; load its module first: modules:NAME+conda:$name" >&2
          exit 2
        fi
        # shellcheck disable=SC1091
        source "$base/etc/profile.d/conda.sh" && conda activate "$name" || exit 2
        K15_PYTHON=${K15_PYTHON:-$CONDA_PREFIX/bin/python}
        ;;
      pyxis | apptainer) K15_CONTAINER=$name K15_RUNTIME=$kind ;;
      *)
        echo "k15: K15_ENV has '$kind', which is not known. Allowed: venv, conda, modules, pyxis, apptainer" >&2
        exit 2
        ;;
    esac
  done
}

# Runs the K15_SETUP of a script and fills K15_PYTHON: that of the container, or of the virtual environment of K15_REPO.
k15_python() {
  eval "${K15_SETUP:-}"
  k15_environment
  if [[ -n ${K15_CONTAINER:-} ]]; then
    K15_PYTHON=${K15_PYTHON:-python3}
    K15_MOUNTS=$K15_REPO:$K15_REPO${K15_MOUNTS:+,$K15_MOUNTS}
  else
    K15_VENV=${K15_VENV:-$K15_REPO/.venv}
    K15_PYTHON=${K15_PYTHON:-$K15_VENV/bin/python}
    if ! command -v "$K15_PYTHON" >/dev/null; then
      echo "k15: there is no $K15_PYTHON; run \`make setup\` in $K15_REPO, or set K15_ENV (venv, conda, pyxis, apptainer)" >&2
      exit 2
    fi
  fi
}

# The body of the scripts beside this one: `k15 WORDS...` in the environment that was asked for.
k15_main() {
  k15_python
  k15_job "$K15_PYTHON" -m k15 "$@"
}

# Fills K15_WORDS: the words after `k15` that serve the code sandbox on this node, with token and address in files of this folder.
k15_sandbox() {
  local address token=sandbox-$SLURM_JOB_ID.token # for those who may read it
  [[ -s $token ]] || (umask 077 && head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$token")
  # Slurm's address of the node: a host name may stand for loopback here and for something else on other nodes.
  address=${K15_HOST_ADDRESS:-$(scontrol show node "$SLURMD_NODENAME" -o | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')}
  # shellcheck disable=SC2034 # for the caller
  K15_WORDS=(sandbox serve --token-file "$token" --url-file "sandbox-$SLURM_JOB_ID.url" --host "${address:-$(hostname)}")
}

# Fills K15_WRAP (options of srun) and K15_INSIDE (words before the command) from K15_CONTAINER, K15_RUNTIME and K15_MOUNTS.
k15_container() {
  local mounts="$PWD:$PWD${K15_MOUNTS:+,$K15_MOUNTS}" # the submitting folder holds runs/
  K15_WRAP=() K15_INSIDE=()
  [[ -n ${K15_CONTAINER:-} ]] || return 0
  if [[ ${K15_RUNTIME:-pyxis} == pyxis ]] && srun --help 2>/dev/null | grep -q -- --container-image; then
    K15_WRAP=(--container-image="$K15_CONTAINER" --container-mounts="$mounts" --container-workdir="$PWD")
  elif [[ ${K15_RUNTIME:-apptainer} == apptainer ]] && command -v apptainer >/dev/null; then
    K15_INSIDE=(apptainer exec --bind "$mounts" --pwd "$PWD")
    [[ -z ${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-} ]] || K15_INSIDE+=(--nv)
    K15_INSIDE+=("$K15_CONTAINER")
  else
    echo "k15: an image is asked for with ${K15_RUNTIME:-pyxis or apptainer}, which is not here" >&2
    return 1
  fi
}

# Fills K15_SRUN: one task a node with all that the job has there. The one place for what differs from Slurm 22.05 to 25.x:
#   since 22.05 srun no longer takes --cpus-per-task from the job, so it is named (22.05 to 23.02 would give one CPU);
#   since 24.11 a job of --gpus-per-task would bind GPUs to tasks: --gpu-bind=none keeps all of a node with its one task,
#   which is what peer access between the node's ranks needs;
#   --cpu-bind warns where the task plugin has no affinity, so it is given only where there is one.
# K15_BIND replaces the binding, for example K15_BIND="--cpu-bind=none" or "--cpu-bind=ldoms --mem-bind=local".
# GROUP, of a heterogeneous job: its part of that number, in place of the first.
k15_srun() {
  local bind=() part=() nodes=SLURM_JOB_NUM_NODES cpus=SLURM_CPUS_PER_TASK
  if ((${1:-0})); then
    part=(--het-group="$1") nodes+=_HET_GROUP_$1 cpus+=_HET_GROUP_$1
  fi
  if [[ -n ${K15_BIND:-} ]]; then
    read -ra bind <<<"$K15_BIND"
  else
    [[ -z ${SLURM_JOB_GPUS:-}${SLURM_GPUS_ON_NODE:-} ]] || bind+=(--gpu-bind=none)
    ! scontrol show config | grep -q '^TaskPlugin .*affinity' || bind+=(--cpu-bind=cores)
  fi
  # No node is killed because another one ended: on the signal all save. Those left after 300 s are.
  K15_SRUN=(srun "${part[@]}" --nodes="${!nodes}" --ntasks-per-node=1 --cpus-per-task="${!cpus:-1}"
    --kill-on-bad-exit=0 --wait=300 "${bind[@]}")
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

# COMMAND as a step of the part GROUP of the job. The parts after the first are nodes for rollout only, which COMMAND learns from
# K15_HET_GROUP; the run takes them in (k15.runs.join), and tells them to end.
k15_step() {
  local group=$1
  shift
  ((group == 0)) || export K15_HET_GROUP=$group
  k15_srun "$group"
  exec "${K15_SRUN[@]}" "${K15_WRAP[@]}" \
    bash -c "$(declare -f k15_wait k15_node); k15_node \"\$@\"" k15_node "${K15_INSIDE[@]}" "$@"
}

# After the command on the first part has ended with $1: the steps $2... of the other parts end within a minute, or are ended.
k15_end_parts() {
  local left step
  left=$(($1 == 0 || $1 == K15_REQUEUE_CODE ? 60 : 0))
  for step in "${@:2}"; do
    for (( ; left > 0; left--)); do
      kill -0 "$step" 2>/dev/null || break
      sleep 1
    done
    ! kill "$step" 2>/dev/null || echo "k15: nodes for rollout only were ended with the run" >&2
    wait "$step"
  done
}

k15_job() {
  local step code group parts=()
  k15_fabric
  k15_container || return 1
  for ((group = 1; group < ${SLURM_HET_SIZE:-1}; group++)); do
    k15_step "$group" "$@" &
    parts+=($!)
  done
  k15_step 0 "$@" &
  step=$!
  trap 'K15_SIGNALLED=1; kill -USR2 "$step"' USR1
  k15_wait "$step"
  code=$?
  trap '' USR1
  k15_end_parts "$code" "${parts[@]}"
  trap - USR1
  if ((code == K15_REQUEUE_CODE)) && scontrol show job "$SLURM_JOB_ID" | grep -q 'Requeue=1'; then
    echo "k15: saved; back into the queue (run $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID ends here)"
    scontrol requeue "$SLURM_JOB_ID" || echo "k15: Slurm refused to requeue the job; submit the same words again to go on" >&2
  fi
  return "$code"
}
