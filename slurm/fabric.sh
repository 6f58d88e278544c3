# shellcheck shell=bash
# Settings of NCCL, UCX, libfabric and gloo by the fabric that this node has. Sourced by preamble.sh; `k15 launch` writes it
# into its scripts.
#
#   k15_fabric    detects, sets, exports and prints. What is set already is left as it is.
#
# K15_FABRIC=auto|infiniband|efa|slingshot|sockets|none decides by hand; none sets nothing. Which interface gloo and NCCL's
# first contact use is else found by k15 on each node: the one that holds the node's address.

k15_detect() {
  local sys=${K15_SYS:-/sys} port hca
  K15_HCAS=()
  for port in "$sys"/class/infiniband/*/ports/*; do
    [[ -e $port/state ]] || continue
    hca=${port%/ports/*}
    grep -q ACTIVE "$port/state" || continue
    if [[ $(readlink "$hca/device/driver") == */efa ]]; then
      echo efa
      return
    fi
    K15_HCAS+=("${hca##*/}:${port##*/}")
  done
  if compgen -G "$sys/class/cxi/cxi*" >/dev/null; then
    echo slingshot
  elif ((${#K15_HCAS[@]})); then
    echo "infiniband ${K15_HCAS[*]}"
  else
    echo sockets
  fi
}

# Sets variable $1 to $2 unless it has a value, exports and notes it.
k15_set() {
  [[ -n ${!1:-} ]] || printf -v "$1" '%s' "$2"
  # shellcheck disable=SC2163
  export "$1"
  K15_CHOSEN+=" $1=${!1}"
}

k15_fabric() {
  local fabric=${K15_FABRIC:-auto} hcas=()
  K15_CHOSEN=
  [[ $fabric != none ]] || return 0
  read -ra hcas <<<"$(k15_detect)"
  [[ $fabric != auto ]] || fabric=${hcas[0]}
  hcas=("${hcas[@]:1}")
  case $fabric in
    infiniband) # also RoCE; ports that are down, which NCCL would try, are left out
      if ((${#hcas[@]})); then
        k15_set NCCL_IB_HCA "=$(IFS=,; echo "${hcas[*]}")"
        k15_set UCX_NET_DEVICES "$(IFS=,; echo "${hcas[*]}")"
      fi
      ;;
    efa) # NCCL needs the aws-ofi-nccl plugin in the environment or image
      k15_set FI_PROVIDER efa
      k15_set FI_EFA_USE_DEVICE_RDMA 1
      k15_set UCX_TLS '^ib'
      ;;
    slingshot) # NCCL needs the ofi plugin; the fabric's interfaces are hsn0, hsn1, ...
      k15_set FI_PROVIDER cxi
      k15_set FI_CXI_DISABLE_HOST_REGISTER 1
      k15_set FI_MR_CACHE_MONITOR userfaultfd
      k15_set NCCL_CROSS_NIC 1
      k15_set NCCL_SOCKET_IFNAME hsn
      k15_set GLOO_SOCKET_IFNAME hsn0
      k15_set UCX_TLS '^ib'
      ;;
    sockets)
      k15_set NCCL_IB_DISABLE 1
      k15_set UCX_TLS '^ib'
      ;;
    *)
      echo "k15: K15_FABRIC is '$fabric', which is not known. Allowed: auto, infiniband, efa, slingshot, sockets, none" >&2
      exit 2
      ;;
  esac
  echo "k15: fabric $fabric:$K15_CHOSEN"
}
