# shellcheck shell=bash
# k15: what a node must have to be given work. Each check_NAME calls `bad REASON` for what it finds; sourced after lib.sh.

BAD=()
SHOW=
SYS=${K15_SYS:-/sys} # as slurm/fabric.sh has it

bad() { BAD+=("$*"); }

run_checks() { # NAME...
  local name before
  for name in "$@"; do
    before=${#BAD[@]}
    "check_$name"
    [[ -z $SHOW ]] || printf '%-16s %s\n' "$name" "$(reasons "$before")"
  done
}

reasons() { # [FROM]: in one line
  local line=ok
  ((${#BAD[@]} == ${1:-0})) || line=$(printf '%s; ' "${BAD[@]:${1:-0}}")
  printf '%s' "${line%; }"
}

# Each folder of K15_FREE can be written and has that many GB, and a hundredth of its files, free.
check_free() {
  local pair folder need have inodes probe
  for pair in $K15_FREE; do
    folder=${pair%:*} need=${pair##*:}
    read -r have inodes < <(timeout -k 1 4 df -k --output=avail,ipcent "$folder" 2>/dev/null | tail -n 1)
    if [[ ! ${have:-} =~ ^[0-9]+$ ]]; then
      bad "disk $folder does not answer"
    elif ((have < need * 1048576)); then
      bad "disk $folder has $((have / 1048576)) GB free of the $need it needs"
    elif [[ ${inodes%\%} =~ ^[0-9]+$ ]] && ((${inodes%\%} >= 99)); then
      bad "disk $folder has no files free"
    elif ! probe=$(timeout -k 1 4 mktemp "$folder/.k15-check.XXXXXX" 2>/dev/null) || ! rm -f "$probe"; then
      bad "disk $folder cannot be written"
    fi
  done
}

# Weights are handed over in /dev/shm: a tmpfs of a tenth of the memory at least.
check_shared_memory() {
  local kind size memory
  read -r kind size < <(df -k --output=fstype,size /dev/shm 2>/dev/null | tail -n 1)
  memory=$(awk '/^MemTotal/ {print $2}' /proc/meminfo)
  if [[ ${kind:-} != tmpfs ]]; then
    bad "/dev/shm is no tmpfs"
  elif ((size * 10 < memory)); then
    bad "/dev/shm has $((size / 1024)) MB of $((memory / 1024)) MB memory"
  fi
}

# As many GPUs as there should be; each answers, and none has lost memory rows, slows down in hardware or is clocked down.
check_gpus() {
  local rows index errors slow mhz count=0
  [[ -n $K15_GPUS ]] || return 0
  if ! rows=$(timeout -k 1 15 nvidia-smi --format=csv,noheader,nounits \
    --query-gpu=index,ecc.errors.uncorrected.volatile.total,clocks_throttle_reasons.hw_slowdown,clocks.applications.graphics 2>&1); then
    bad "GPUs: nvidia-smi fails: $(head -n 1 <<<"$rows" | cut -c 1-80)"
    return
  fi
  while IFS=, read -r index errors slow mhz; do
    count=$((count + 1))
    errors=${errors// /} mhz=${mhz// /}
    [[ ! $errors =~ ^[0-9]+$ ]] || ((errors == 0)) || bad "GPU $index has $errors uncorrected memory errors"
    [[ ${slow// /} != Active ]] || bad "GPU $index is slowed down by its hardware (heat or power)"
    if [[ -n $K15_GPU_MHZ && $mhz =~ ^[0-9]+$ ]] && ((mhz < K15_GPU_MHZ)); then
      bad "GPU $index is set to $mhz MHz, not $K15_GPU_MHZ"
    fi
  done <<<"$rows"
  ((count == K15_GPUS)) || bad "GPUs: $count of $K15_GPUS"
  while IFS=, read -r index errors slow; do
    [[ ${errors// /}${slow// /} != *Yes* && ${errors// /}${slow// /} != *1* ]] || bad "GPU $index must replace memory rows (reset it)"
  done < <(timeout -k 1 15 nvidia-smi --format=csv,noheader \
    --query-remapped-rows=gpu_uuid,remapped_rows.pending,remapped_rows.failure 2>/dev/null)
}

# The GPUs of the job that begins are in nobody's use.
check_idle_gpus() {
  local pids
  [[ -n $K15_GPUS && -n ${SLURM_JOB_GPUS:-} ]] || return 0
  mapfile -t pids < <(timeout -k 1 15 nvidia-smi --id="$SLURM_JOB_GPUS" --query-compute-apps=pid --format=csv,noheader 2>/dev/null)
  ((${#pids[@]} == 0)) || bad "GPUs $SLURM_JOB_GPUS are in use by processes ${pids[*]:0:5}"
}

# InfiniBand or RoCE: enough active ports, none at a lower rate than it should have (a bad cable trains down silently).
check_fabric() {
  local port rate name active=0
  [[ -n $K15_FABRIC_PORTS ]] || return 0
  for port in "$SYS"/class/infiniband/*/ports/*; do
    grep -qs ACTIVE "$port/state" || continue
    active=$((active + 1))
    read -r rate _ <"$port/rate"
    name=${port#"$SYS/class/infiniband/"}
    if [[ -n $K15_FABRIC_GBPS ]] && ((${rate%.*} < K15_FABRIC_GBPS)); then
      bad "fabric: ${name/ports\//} runs at $rate of $K15_FABRIC_GBPS Gb/s"
    fi
  done
  ((active >= K15_FABRIC_PORTS)) || bad "fabric: $active of $K15_FABRIC_PORTS ports are active"
}

# The node's time of day: leases, credentials of munge and the order of logs need it.
check_clock() {
  local off
  [[ -n $K15_CLOCK_MS ]] || return 0
  off=$(timeout 20 chronyc -c tracking 2>/dev/null | awk -F, '{x = $5 < 0 ? -$5 : $5; printf "%d", x * 1000}')
  if [[ -z $off ]]; then
    bad "clock: chrony does not answer"
  elif ((off > K15_CLOCK_MS)); then
    bad "clock: $off ms off"
  fi
}

# Tried, not guessed: an ordinary user makes what the code sandbox makes, and the kernel filters system calls.
check_user_namespaces() {
  local why
  [[ -n $K15_USERNS ]] || return 0
  why=$(timeout 20 setpriv --reuid=65534 --regid=65534 --clear-groups \
    unshare --user --map-root-user --mount --pid --net --ipc --uts --fork true 2>&1) ||
    bad "sandbox: ordinary users cannot make namespaces (${why:0:80}); see sysctl.conf"
  grep -qsw errno /proc/sys/kernel/seccomp/actions_avail || bad "sandbox: the kernel has no seccomp filter"
}
