# shellcheck shell=bash
# Renders slurm.conf, gres.conf, cgroup.conf and the nodes' hosts file from the settings of lib.sh.

memory_mb() { awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo; }

node_lines() {
  local k cpus memory where feature=
  [[ -z $ADMIN ]] || feature=" Feature=gpu" CPUS=${CPUS:-$(nproc)} # control groups give out only cores that are there
  cpus=${CPUS:-$(($(nproc) / NODES > 4 ? $(nproc) / NODES : 4))}
  # The nodes share one machine: each offers its part of nine tenths of the memory, so that jobs that ask for
  # memory cannot be given more than there is. CPUs are oversubscribed on purpose.
  memory=$(($(memory_mb) * 9 / 10 / NODES))
  for ((k = 1; k <= NODES; k++)); do
    where="NodeHostname=$PREFIX$k NodeAddr=$SUBNET.$k"
    [[ $MODE != shared ]] || where="NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 10 + k))"
    echo "NodeName=$PREFIX$k $where CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1" \
      "RealMemory=$memory Gres=gpu:2$feature"
  done
  [[ -n $ADMIN ]] || echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=$((memory / cpus))"
}

slurm_conf() {
  local user auth=cred_expire=15 address=$SUBNET.254
  user=$(id -un)
  [[ $MUNGE == system ]] || auth=socket=$DIR/munge.socket,$auth
  [[ $MODE != shared ]] || address=127.0.0.1
  cat <<END
# Written by slurm/local/up; changes are lost.
ClusterName=$NAME
SlurmctldHost=$HOST($address)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits until its old credential has expired (120 s by default).
AuthInfo=$auth
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobs.txt
MinJobAge=3600
SlurmctldTimeout=30
MessageTimeout=30
$(node_lines)
END
  if [[ -n $ADMIN ]]; then admin_lines; else plain_lines; fi
}

plain_lines() {
  cat <<END
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=10
ReturnToService=2
SlurmdTimeout=$TIMEOUT_S
PropagateResourceLimitsExcept=MEMLOCK
Epilog=$DIR/epilog
END
}

# gres/gpu wants a path for each device; two other names of /dev/null stand for the GPUs (a plain file will not
# do: CUDA_VISIBLE_DEVICES stays unset). Steps then see CUDA_VISIBLE_DEVICES as on a real node; no device is made.
make_gpus() {
  local i
  mkdir -p "$DIR/dev"
  for i in 0 1; do
    if [[ -z $ADMIN ]]; then
      ln -sfn /dev/null "$DIR/dev/gpu$i"
    else # ConstrainDevices would take /dev/null away from all; nothing answers under this number, but it can be refused
      # 60: for local use, and given to no driver
      [[ $(stat -c %F:%t:%a "$DIR/dev/gpu$i" 2>/dev/null) == *character*:3c:600 ]] ||
        { rm -f "$DIR/dev/gpu$i" && mknod -m 600 "$DIR/dev/gpu$i" c 60 "$i"; }
    fi
  done
}

hosts_file() {
  local k
  printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n%s.254 %s\n' "$SUBNET" "$HOST"
  for ((k = 1; k <= NODES; k++)); do
    printf '%s.%d %s%d\n' "$SUBNET" "$k" "$PREFIX" "$k"
  done
}

# Writes all of it; returns 0 if slurm.conf changed, so that the daemons must read it again.
write_conf() {
  make_gpus
  echo "NodeName=${PREFIX}[1-$NODES] Name=gpu File=$DIR/dev/gpu[0-1]" >"$DIR/gres.conf"
  if [[ -n $ADMIN ]]; then
    admin_files
  else
    # Named, not detected: detection fails where /sys/fs/cgroup is not to be had, and nothing here uses cgroups.
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$DIR/cgroup.conf"
    install -m 755 "$HERE/epilog.sh" "$DIR/epilog"
  fi
  hosts_file >"$DIR/hosts.new"
  cat "$DIR/hosts.new" >"$DIR/hosts" # in place: the nodes have this very file mounted
  slurm_conf >"$CONF.new"
  if cmp -s "$CONF.new" "$CONF"; then
    rm "$CONF.new"
    return 1
  fi
  mv "$CONF.new" "$CONF"
}
