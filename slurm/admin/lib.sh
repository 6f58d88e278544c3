# shellcheck shell=bash disable=SC2034
# k15: shared by prolog, epilog and health. Slurm starts these as root, without a PATH.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH LC_ALL=C
umask 022

ADMIN=${BASH_SOURCE[0]%/*}
K15_LOG=/var/log/slurm/k15-node.log K15_MIN_UID=1000 K15_KEEP_USERS="" K15_FREE="" K15_GPUS="" K15_GPU_MHZ=""
K15_FABRIC_PORTS="" K15_FABRIC_GBPS="" K15_CLOCK_MS="" K15_USERNS=""
# shellcheck disable=SC1091
[[ ! -r $ADMIN/site.env ]] || source "$ADMIN/site.env"

NODE=${SLURMD_NODENAME:-$(uname -n)}
NODE=${NODE%%.*}
TOOL=k15

# Without control characters: programs of users choose the names that are written here.
note() { printf '%(%FT%T)T %s %s%s: %s\n' -1 "$NODE" "$TOOL" "${SLURM_JOB_ID:+ job $SLURM_JOB_ID}" "${*//[[:cntrl:]]/}" >>"$K15_LOG"; }

# drain REASON: no new job comes here. A node that is drained already keeps the reason that it has.
drain() {
  note "drain: $*"
  if timeout 20 scontrol show node -o "$NODE" 2>>"$K15_LOG" | grep -Eq ' State=[^ ]*DRAIN'; then return 0; fi
  timeout 20 scontrol update NodeName="$NODE" State=DRAIN Reason="$TOOL: $*" >>"$K15_LOG" 2>&1
}
