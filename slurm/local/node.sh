#!/usr/bin/env bash
# A virtual host's first process: makes the host private (name, /dev/shm, /etc/hosts), then adopts and reaps orphans.
# Started by `up` inside new mount, UTS, IPC and PID namespaces; killing it ends every process of the node.
# usage: node.sh STATE_DIR NODE SHM_MB [CONTROL_GROUP ...]
set -euo pipefail
hostname "$2"
mount -t tmpfs -o "size=${3}m,mode=1777" shm /dev/shm
mount --bind "$1/hosts" /etc/hosts
if (($# > 3)); then # control groups as a host has them: this node's are the roots
  mount -t tmpfs -o size=1m,mode=755 cgroup /sys/fs/cgroup
  for group in "${@:4}"; do
    mkdir "/sys/fs/cgroup/$group"
    mount -t cgroup -o "$group" cgroup "/sys/fs/cgroup/$group"
  done
fi
echo ready >"$1/run/$2.ready"
trap 'exit 0' TERM INT
while :; do
  sleep infinity &
  wait $! || true # bash reaps whatever else ends meanwhile
done
