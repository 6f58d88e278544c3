# shellcheck shell=bash
# The network: a switch in a namespace of its own, a cable to the host (.254) and one to each node (.1 to .8).
#
# The bridge has its own namespace because a firewall of the machine (Docker's, for one) would otherwise filter what
# the nodes send each other. Addresses outside the subnet are answered "unreachable" at once by the switch: without
# a default route, programs that look up their own address fail; with one that leads nowhere, they hang.
#
#   cut node 2's cable:   nsenter --net=/run/netns/k15-sw ip link set n2 down

pick_subnet() {
  local i
  [[ -z $SUBNET ]] || return 0
  for ((i = 0; i < 100; i++)); do
    case $(ip -4 route get fibmatch "10.115.$i.1" 2>/dev/null) in
      '' | default* | unreachable*) SUBNET=10.115.$i && return 0 ;;
    esac
  done
  die "no free subnet among 10.115.0.0/24 to 10.115.99.0/24; set K15_LOCAL_SLURM_SUBNET to three numbers, like 172.30.5"
}

pick_port() {
  [[ -z $PORT ]] || return 0
  for ((PORT = 16817; PORT < 17817; PORT += 20)); do
    ss -Hltn "sport = :$PORT" | grep -q . || return 0
  done
  die "no free port for slurmctld among 16817 to 17817; set K15_LOCAL_SLURM_PORT"
}

# Can this machine make the namespaces that a node needs? Tried, not guessed.
can_namespace() {
  local probe=$NAME-probe ok=1
  ip netns add "$probe" 2>/dev/null || return 1
  nsenter --net="/run/netns/$probe" unshare --mount --uts --ipc --pid --fork --mount-proc \
    sh -c 'hostname probe && mount -t tmpfs -o size=1m probe /dev/shm && ip link add type veth' >/dev/null 2>&1 && ok=0
  ip netns del "$probe"
  return $ok
}

in_net() { # NAMESPACE COMMAND...; not `ip netns exec`, which hides /sys/fs/cgroup
  local ns=$1
  shift
  nsenter --net="/run/netns/$ns" "$@"
}

has_net() { in_net "$1" true 2>/dev/null; }

make_switch() {
  local sw=$NAME-sw
  if has_net "$sw" && ip link show "$NAME-host" >/dev/null 2>&1; then return 0; fi
  drop_net "$sw"
  ip netns add "$sw"
  in_net "$sw" ip link set lo up
  in_net "$sw" ip link add br0 type bridge
  in_net "$sw" ip addr add "$SUBNET.253/24" dev br0
  in_net "$sw" ip link set br0 up
  in_net "$sw" ip route add unreachable default
  in_net "$sw" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward' # of this namespace: it lets the switch refuse aloud
  ip link add "$NAME-host" type veth peer name host netns "$sw"
  in_net "$sw" ip link set host master br0 up
  ip addr add "$SUBNET.254/24" dev "$NAME-host"
  ip link set "$NAME-host" up
}

make_cable() { # node number
  local ns=$NAME-$PREFIX$1 sw=$NAME-sw
  if has_net "$ns" && in_net "$sw" ip link show "$PREFIX$1" >/dev/null 2>&1; then return 0; fi
  drop_net "$ns"
  ip netns add "$ns"
  in_net "$ns" ip link set lo up
  in_net "$sw" ip link add "$PREFIX$1" type veth peer name eth0 netns "$ns"
  in_net "$sw" ip link set "$PREFIX$1" master br0 up
  in_net "$ns" ip addr add "$SUBNET.$1/24" dev eth0
  in_net "$ns" ip link set eth0 up
  in_net "$ns" ip route add default via "$SUBNET.253"
}

# Ends what still runs in a namespace, then removes it; a veth goes with the namespace that holds its end.
drop_net() {
  local pid
  [[ -e /run/netns/$1 ]] || return 0
  for pid in $(ip netns pids "$1" 2>/dev/null); do
    kill -KILL "$pid" 2>/dev/null
  done
  ip netns del "$1" 2>/dev/null || rm -f "/run/netns/$1" # a plain file is all that a restart leaves
}
