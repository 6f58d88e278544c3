# shellcheck shell=bash disable=SC2034
# Shared by up, down and status: where the cluster lives, what runs, and how a process is known to be ours.
#
# Everything of one cluster is below $DIR; nothing outside it is written. Two clusters with different
# K15_LOCAL_SLURM_DIR and K15_LOCAL_SLURM_NAME can stand side by side (the tests do this).
#
#   K15_LOCAL_SLURM_DIR       state: configuration, logs, spool      /var/tmp/k15-slurm
#   K15_LOCAL_SLURM_NAME      cluster, namespaces, interfaces        k15   (at most 8 letters or digits)
#   K15_LOCAL_SLURM_PREFIX    nodes are PREFIX1..PREFIXn             n
#   K15_LOCAL_SLURM_SUBNET    first three numbers of a free /24      10.115.0 or the next free one
#   K15_LOCAL_SLURM_PORT      slurmctld's port                       16817 or the next free one
#   K15_LOCAL_SLURM_CPUS      CPUs a node offers                     the larger of 4 and machine / nodes
#   K15_LOCAL_SLURM_TIMEOUT_S silence after which a node is DOWN     60
#   K15_LOCAL_SLURM_MODE      auto | namespaces | shared             auto
#   K15_LOCAL_SLURM_ADMIN     1: with slurm/admin (needs root, MariaDB, slurmdbd), see admin.sh

DIR=${K15_LOCAL_SLURM_DIR:-/var/tmp/k15-slurm}
CONF=$DIR/slurm.conf
HOST=$(uname -n)
HOST=${HOST%%.*}
MAX_NODES=8
PATH=$PATH:/usr/sbin:/sbin # Debian keeps the daemons there, and a user's PATH often lacks it

NAME=${K15_LOCAL_SLURM_NAME:-k15}
PREFIX=${K15_LOCAL_SLURM_PREFIX:-n}
SUBNET=${K15_LOCAL_SLURM_SUBNET:-}
PORT=${K15_LOCAL_SLURM_PORT:-}
TIMEOUT_S=${K15_LOCAL_SLURM_TIMEOUT_S:-60}
MODE=${K15_LOCAL_SLURM_MODE:-auto}
CPUS=${K15_LOCAL_SLURM_CPUS:-}
ADMIN=${K15_LOCAL_SLURM_ADMIN:-}
NODES=0 # nodes that `up` has made
MUNGE=  # own | system

QUIET=${QUIET:-}
say() { [[ -n $QUIET ]] || printf 'slurm/local: %s\n' "$*" >&2; }
warn() { printf 'slurm/local: %s\n' "$*" >&2; }
die() {
  printf 'slurm/local: error: %s\n' "$*" >&2
  exit 1
}

# A state folder that another user made could hold a configuration of theirs, which root would then run.
check_dir() {
  [[ $DIR == /* ]] || die "K15_LOCAL_SLURM_DIR is '$DIR', but it must be an absolute path"
  [[ ! -e $DIR || (-d $DIR && -O $DIR && ! -L $DIR) ]] ||
    die "$DIR is not a folder of $(id -un)'s; remove it or set K15_LOCAL_SLURM_DIR"
  [[ $NAME =~ ^[a-z][a-z0-9]{0,7}$ ]] || die "K15_LOCAL_SLURM_NAME is '$NAME': 1 to 8 small letters or digits, please"
  [[ $ADMIN =~ ^1?$ ]] || die "K15_LOCAL_SLURM_ADMIN is '$ADMIN', but only 1 (with slurm/admin) or nothing is allowed"
  [[ $PREFIX =~ ^[a-z]{1,8}$ ]] || die "K15_LOCAL_SLURM_PREFIX is '$PREFIX': 1 to 8 small letters, please"
}

# What `up` wrote about a cluster that stands; it wins over the environment, so that `down` finds all of it.
load_state() {
  # shellcheck disable=SC1091
  [[ ! -f $DIR/cluster ]] || source "$DIR/cluster"
}

save_state() {
  local key
  for key in NAME PREFIX SUBNET PORT TIMEOUT_S MODE CPUS ADMIN NODES MUNGE; do
    printf '%s=%q\n' "$key" "${!key}"
  done >"$DIR/cluster.new"
  mv "$DIR/cluster.new" "$DIR/cluster"
}

# The configuration of a Slurm that answers here and is not ours; empty when there is none.
foreign_conf() {
  local conf
  [[ ${SLURM_CONF:-} != "$CONF" ]] || return 0
  conf=$(timeout 10 scontrol show config 2>/dev/null | awk '$1 == "SLURM_CONF" {print $3}')
  if [[ -n $conf && $conf != "$CONF" ]] && timeout 10 sinfo -h >/dev/null 2>&1; then printf '%s' "$conf"; fi
}

# is_ours PID WORD: does PID run, with WORD in its command line? Pid files outlive a restart of the machine.
is_ours() {
  [[ $1 =~ ^[0-9]+$ && -r /proc/$1/cmdline ]] && tr '\0' ' ' <"/proc/$1/cmdline" | grep -qF -- "$2"
}

# live_pid FILE WORD: prints the pid in FILE if that process is the one that wrote it.
live_pid() {
  local pid=
  [[ -f $1 ]] && pid=$(<"$1")
  is_ours "$pid" "$2" && printf '%s' "$pid"
}

munged_pid() { live_pid "$DIR/munge/pid" "$DIR/munge"; }
slurmctld_pid() { live_pid "$DIR/run/slurmctld.pid" "$CONF"; }
init_pid() { live_pid "$DIR/run/$PREFIX$1.init" "$DIR"; }
slurmd_pid() { # node number -> pid on the host
  local init
  if [[ $MODE == shared ]]; then
    live_pid "$DIR/run/slurmd-$PREFIX$1.pid" "$CONF"
  else
    init=$(init_pid "$1") && pgrep -x slurmd --ns "$init" --nslist pid | head -n 1 | grep .
  fi
}

wait_gone() { # PID SECONDS
  local i
  for ((i = 0; i < $2 * 20; i++)); do
    [[ -d /proc/$1 ]] && [[ $(awk '{print $3}' "/proc/$1/stat" 2>/dev/null) != Z ]] || return 0
    sleep 0.05
  done
  return 1
}

end_process() { # PID: asked first, then made to
  kill -TERM "$1" 2>/dev/null || return 0
  wait_gone "$1" 8 || kill -KILL "$1" 2>/dev/null || return 0
  wait_gone "$1" 5
}
