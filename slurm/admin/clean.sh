# shellcheck shell=bash
# k15: what ended jobs left on this node. Sourced by prolog and epilog, after lib.sh.
#
# Whose is it? A process belongs to the job of its control group; outside of any, to the job that its environment names (if
# the job's user runs it). A user without a live job here has nothing to keep. A job lives while one of its slurmstepd does,
# and that is looked at AFTER the list of processes and files was made: what a job that begins meanwhile makes is not on it.
#
# Nothing here asks slurmctld: a thousand nodes that end a job together would keep it from work.

shopt -s dotglob # also names below /dev/shm that begin with points

declare -A LIVE_JOBS LIVE_UIDS KEEP_UIDS KNOWN_UIDS PROCESS_UID PROCESS_JOB PROCESS_BORN
ALL_KNOWN=  # the user of each live job is known, so that users without one are known too
KEEP_KNOWN= # and so are those whom list_keep was told of
HEADLESS=() # environments of processes whose main thread has ended: their own one is empty

# who DIR: sets NAME_OF, UID_OF (the real one) and DIR_OF of a process; false where it is gone, or dead and only not yet
# fetched. DIR_OF is that of a living thread if the main one has ended, which shows neither environment nor control group.
who() {
  local key value dead='' task
  NAME_OF='' UID_OF='' DIR_OF=$1
  while read -r key value _; do
    case $key in
      Name:) NAME_OF=$value ;;
      State:) [[ $value != [ZX] ]] || dead=1 ;;
      Uid:) UID_OF=$value && [[ -n $dead ]] || return 0 ;;
      Threads:) ((value > 1)) && break || return 1 ;;
    esac
  done 2>/dev/null <"$1/status"
  [[ -n $UID_OF ]] || return 1
  for task in "$1"/task/*; do
    [[ ${task##*/} == "${1##*/}" ]] || DIR_OF=$task
  done
}

# born PID: sets BORN to when it began (field 22 of stat), which tells a process from a later one with its number.
born() {
  local line='' fields
  IFS= read -r -d '' line 2>/dev/null <"/proc/$1/stat"
  read -ra fields <<<"${line##*) }" # its name may hold anything
  BORN=${fields[19]:-}
}

# end_listed PID: kills it if it is still the process that list_processes saw.
end_listed() {
  born "$1"
  [[ -n $BORN && $BORN == "${PROCESS_BORN[$1]:-}" ]] && kill -KILL "$1" 2>/dev/null
}

# Fills PROCESS_UID and PROCESS_JOB (number of the job by control group, or empty), by pid. Slurm's own are left out: root's,
# since anybody can take their names.
list_processes() {
  local dir pid line
  PROCESS_UID=() PROCESS_JOB=() PROCESS_BORN=() HEADLESS=()
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    born "$pid" # before the rest: whose number is given anew meanwhile is not killed
    who "$dir" || continue
    [[ $UID_OF != 0 || $NAME_OF != @(slurmstepd|slurmd|sackd) ]] || continue
    PROCESS_UID[$pid]=$UID_OF PROCESS_JOB[$pid]='' PROCESS_BORN[$pid]=$BORN
    [[ $DIR_OF == "$dir" ]] || HEADLESS+=("$DIR_OF/environ")
    while read -r line; do # the topmost: below its own group a program may give any name
      [[ ! $line =~ /[^/]*slurm[^/]*/(uid_[0-9]+/)?job_([0-9]+)(/|$) ]] || PROCESS_JOB[$pid]=${BASH_REMATCH[2]}
    done 2>/dev/null <"$DIR_OF/cgroup"
  done
  # neither the first process nor this script with what started it, which have the job's environment too
  pid=$$
  while ((${pid:-0} > 1)); do
    unset "PROCESS_UID[$pid]"
    pid=$(awk '/^PPid/ {print $2}' "/proc/$pid/status" 2>/dev/null)
  done
  unset "PROCESS_UID[1]"
}

# Fills LIVE_JOBS and LIVE_UIDS but for job $1, which has ended. slurmstepd calls itself `slurmstepd: [12.batch]`.
list_live() {
  local dir pid title job child uid found
  LIVE_JOBS=() LIVE_UIDS=() ALL_KNOWN=1
  for dir in /proc/[0-9]*; do
    who "$dir" || continue
    [[ $NAME_OF == slurmstepd && $UID_OF == 0 ]] || continue
    pid=${dir#/proc/}
    title=$(tr '\0' ' ' <"$dir/cmdline" 2>/dev/null)
    [[ $title != *infinity* ]] || continue # holds the control groups of version 2 and no job
    # one that has no title yet has no process either; it is somebody's
    if [[ ! $title =~ \[([0-9]+)\. ]]; then
      ALL_KNOWN= && continue
    fi
    job=${BASH_REMATCH[1]}
    [[ $job != "${1:-}" ]] || continue
    found=
    for child in $(pgrep -P "$pid"); do
      # by its group where that says so; else by the process, but what holds a job between its steps may be root's
      uid=$(sed -n 's#.*/uid_\([0-9]*\)/job_.*#\1#p' "/proc/$child/cgroup" 2>/dev/null | head -n 1)
      if [[ -z $uid ]]; then
        who "/proc/$child" || continue
        uid=$UID_OF
        { ((uid > 0)) && named_uid "$uid"; } || continue # a container's own users say nothing
      fi
      LIVE_UIDS[$uid]=1 found=1
    done
    [[ -n $found || -n ${LIVE_JOBS[$job]:-} ]] || LIVE_JOBS[$job]=unknown
    [[ -z $found ]] || LIVE_JOBS[$job]=known
  done
  for job in "${LIVE_JOBS[@]}"; do
    [[ $job == known ]] || ALL_KNOWN=
  done
}

# named_uid UID: somebody's, by name; those of containers (subuid) and of sandboxes are not.
named_uid() {
  [[ -n ${KNOWN_UIDS[$1]:-} ]] || { timeout 10 getent passwd "$1" >/dev/null && KNOWN_UIDS[$1]=1; }
}

# gone UID: an ordinary user who has no live job here. 60001 to 65535 are daemons' (Debian's slurm, ceph, systemd's own) and
# nobody's.
gone() {
  [[ -n $ALL_KNOWN && -n $KEEP_KNOWN ]] && (($1 >= K15_MIN_UID && ($1 < 60001 || $1 > 65535))) &&
    [[ -z ${LIVE_UIDS[$1]:-}${KEEP_UIDS[$1]:-} ]] && named_uid "$1"
}

# Fills KEEP_UIDS from K15_KEEP_USERS (names or numbers) and SlurmUser, whose daemons may run on this node. Who has a name that
# nobody knows (now: a directory service may be away) could be anybody: then no user counts as gone.
list_keep() {
  local user uid
  KEEP_UIDS=() KEEP_KNOWN=1
  for user in $K15_KEEP_USERS $(slurm_user); do
    if [[ $user =~ ^[0-9]+$ ]]; then
      uid=$((10#$user))
    elif ! uid=$(id -u -- "$user" 2>/dev/null); then
      note "no user '$user' (K15_KEEP_USERS, SlurmUser): only what names an ended job is removed"
      KEEP_KNOWN= && continue
    fi
    KEEP_UIDS[$uid]=1
  done
}

# SlurmUser of slurm.conf; nothing where an included file has it (name that user in K15_KEEP_USERS).
slurm_user() {
  sed -nE 's/^[[:space:]]*SlurmUser[[:space:]]*=[[:space:]]*([^[:space:]#(]+).*/\1/Ip' "${SLURM_CONF:-/etc/slurm/slurm.conf}" 2>/dev/null
}

# leader JOB: SLURM_HET_JOB_ID if JOB is another part of that job, which lives here no longer; else JOB. The environment of all
# parts has the leading one's number.
leader() {
  local het=${SLURM_HET_JOB_ID:-}
  [[ $het =~ ^[0-9]+$ && -z ${LIVE_JOBS[$het]:-} ]] || het=$1
  echo "$het"
}

# Prints the pids of what ended job $1 of user $2 left, and of users who have no job here.
stale_processes() {
  local pid uid job named
  # those whose environment names the job: a line for each
  named=" $(grep -lszx -e "SLURM_JOB_ID=$1" -e "SLURM_JOB_ID=$(leader "$1")" /proc/[0-9]*/environ "${HEADLESS[@]}" | sed 's#/proc/\([0-9]*\)/.*#\1#' | tr '\n' ' ')"
  for pid in "${!PROCESS_UID[@]}"; do
    uid=${PROCESS_UID[$pid]} job=${PROCESS_JOB[$pid]}
    if [[ $job == "$1" ]]; then
      echo "$pid"
    elif [[ -n $job && -n ${LIVE_JOBS[$job]:-} ]]; then
      continue
    elif [[ $uid == "$2" && $named == *" $pid "* ]]; then
      echo "$pid"
    elif gone "$uid"; then
      echo "$pid"
    fi
  done
}

# Kills all of it, again until nothing is left (what forks meanwhile is on the next list). Drains the node if some stay.
clean_processes() { # JOB UID
  local round pids pid names=() killed=0
  thaw "$1"
  for ((round = 0; round < 50; round++)); do
    list_processes
    list_live "$1"
    mapfile -t pids < <(stale_processes "$1" "$2")
    ((${#pids[@]})) || break
    for pid in "${pids[@]}"; do
      ((round)) || names+=("$pid:$(cat "/proc/$pid/comm" 2>/dev/null)")
      end_listed "$pid" && ((killed++))
    done
    sleep 0.2
  done
  ((killed == 0)) || note "killed ${names[*]:0:20}"
  ((${#pids[@]} == 0)) || drain "processes ${pids[*]:0:5} of ended jobs cannot be killed"
}

# A stopped group (a suspended job) does not see SIGKILL before it goes on; version 1 only.
thaw() {
  local state
  for state in /sys/fs/cgroup/freezer/slurm*/uid_*/job_"$1"/{,step_*/}freezer.state; do
    [[ ! -e $state ]] || echo THAWED >"$state"
  done
}

# Shared memory: POSIX segments and queues (files), and System V's. k15 names its own after the job.
clean_shared_memory() { # JOB UID
  local path uid name kind id het kb size=0 count=0
  local files=(/dev/shm/* /dev/mqueue/*) objects
  mapfile -t objects < <(for kind in shm sem msg; do system_v "$kind"; done)
  list_live "$1"
  het=$(leader "$1")
  for path in "${files[@]}"; do
    uid=$(stat -c %u "$path" 2>/dev/null) || continue
    name=${path##*/}
    if gone "$uid" || { [[ $uid == "$2" ]] && [[ $name == k15-"$1" || $name == k15-"$1"-* || $name == k15-"$het"-* ]]; }; then
      kb=$(du -sxk "$path" 2>/dev/null | cut -f1) # empty if it has gone meanwhile
      remove_tree "$path" "$uid"
      [[ -e $path || -L $path ]] || count=$((count + 1)) size=$((size + ${kb:-0}))
    fi
  done
  for name in "${objects[@]}"; do
    read -r kind id uid <<<"$name"
    if gone "$uid" && ipcrm "--$kind-id" "$id" 2>/dev/null; then count=$((count + 1)); fi
  done
  ((count == 0)) || note "removed $count pieces of shared memory, $size KB"
}

# remove_tree PATH UID: what is that user's below it, or a gone one's; another's live files stay, with the folders around them.
remove_tree() {
  local uid whose=(-uid "$2")
  while read -r uid; do
    if gone "$uid"; then whose+=(-o -uid "$uid"); fi
  done < <(find "$1" -xdev -printf '%U\n' 2>/dev/null | sort -u)
  find "$1" -xdev -depth \( "${whose[@]}" \) -delete 2>/dev/null
}

# Prints kind, number and owner of each segment (attached by nobody), semaphore or queue, as ipcrm names them.
system_v() {
  awk -v kind="$1" 'BEGIN {name["shm"] = "shmem"; name["sem"] = "semaphore"; name["msg"] = "queue"}
    NR == 1 {for (i = 1; i <= NF; i++) at[$i] = i; next}
    kind != "shm" || $at["nattch"] == 0 {print name[kind], $2, $at["uid"]}' "/proc/sysvipc/$1" 2>/dev/null
}

# The job's control groups, with what programs made inside them (Slurm removes only its own).
clean_groups() {
  local top count=0
  while read -r top; do
    while read -r dir; do
      rmdir "$dir" 2>/dev/null && count=$((count + 1))
    done < <(find "$top" -depth -type d)
    # the user's group goes with the last job; the kernel keeps it while there is another
    [[ $top != */uid_*/* ]] || rmdir "${top%/*}" 2>/dev/null
    [[ ! -d $top ]] || note "the control group $top cannot be removed"
  done < <(find /sys/fs/cgroup -maxdepth 6 -type d -path '*slurm*' -name "job_$1" 2>/dev/null)
  ((count == 0)) || note "removed $count control groups"
}

# Compute processes on GPUs $1 (0,1), the ended job's own, that belong to no live job.
clean_gpus() { # GPUS UID
  local pid job uid
  [[ -n $1 ]] && command -v nvidia-smi >/dev/null || return 0
  list_processes
  list_live "${SLURM_JOB_ID:-}"
  for pid in $(timeout 30 nvidia-smi --id="$1" --query-compute-apps=pid --format=csv,noheader 2>>"$K15_LOG"); do
    uid=${PROCESS_UID[$pid]:-} job=${PROCESS_JOB[$pid]:-}
    if [[ -z $uid || -n ${LIVE_JOBS[${job:-0}]:-} || -n ${LIVE_UIDS[$uid]:-} ]]; then
      note "process $pid on GPU $1 is not of an ended job"
    elif [[ $uid == "$2" ]] || gone "$uid"; then
      end_listed "$pid" && note "killed $pid, which was left on GPU $1"
    fi
  done
}

# Ports that a user without a job still listens on: the user's processes are gone, so another's holds them. Only what is held by the
# same socket in look after look counts: a neighbour's job may be ending just now, and its own epilog frees what it left.
check_ports() {
  local look line address uid socket held lines before=()
  for look in 1 2 3 4 5; do
    ((look == 1)) || sleep 1
    held=()
    mapfile -t lines < <(awk '$4 == "0A" {print $2, $8, $10}' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    list_live "${SLURM_JOB_ID:-}"
    for line in "${lines[@]}"; do
      read -r address uid socket <<<"$line"
      gone "$uid" || continue
      ((look > 1)) && [[ " ${before[*]} " != *" $((16#${address##*:})):$socket "* ]] || held+=("$((16#${address##*:})):$socket")
    done
    ((${#held[@]} > 0)) || return 0
    before=("${held[@]}")
  done
  held=("${held[@]%%:*}")
  drain "ports ${held[*]:0:5} of ended jobs are still held"
}
