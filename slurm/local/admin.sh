# shellcheck shell=bash
# K15_LOCAL_SLURM_ADMIN=1: the cluster runs with the files of slurm/admin, with real control groups (a tree of its own for each
# node), and with slurmdbd and a MariaDB below $DIR. What a box cannot have as a site does (addresses, paths, how often) is
# changed in the copies, here and nowhere else. Users need an account, as on a site:
#
#   sacctmgr -i add user NAME account=research        (root has one)

GROUPS_V1=(freezer memory cpuset devices cpu cpuacct)

admin_address() { [[ $MODE == shared ]] && echo 127.0.0.1 || echo "$SUBNET.254"; }

# Files of the site on which the cluster stands, with paths and hosts of the box.
admin_files() {
  local file admin=$DIR/admin
  mkdir -p "$admin"
  for file in lib.sh clean.sh checks.sh; do install -m 644 "$HERE/../admin/$file" "$admin/$file"; done
  for file in prolog epilog health accounts; do install -m 755 "$HERE/../admin/$file" "$admin/$file"; done
  if [[ ! -f $admin/site.env ]]; then # what somebody changed stays
    sed -e "s#^K15_LOG=[^ ]*#K15_LOG=$DIR/log/k15-node.log#" -e 's#"/:2 .*"#"/dev/shm:0"#' "$HERE/../admin/site.env" >"$admin/site.new"
    echo "export SLURM_CONF=$CONF" >>"$admin/site.new"
    mv "$admin/site.new" "$admin/site.env"
  fi
  sed -e "s#/etc/slurm/k15/#$admin/#" -e "s/=slurmdb\$/=$(admin_address)/" \
    -e 's/^HealthCheckInterval=.*/HealthCheckInterval=3/' -e "s/^SlurmdTimeout=.*/SlurmdTimeout=$TIMEOUT_S/" \
    -e 's/^KillWait=.*/KillWait=10/' -e 's/^PreemptExemptTime=.*/PreemptExemptTime=00:00:00/' \
    -e 's/^DefMemPerCPU=.*/DefMemPerCPU=500/' \
    -e 's/^SchedulerParameters=/&sched_interval=2,bf_interval=5,batch_sched_delay=0,/' \
    "$HERE/../admin/slurm.conf" >"$admin/slurm.conf"
  cp "$HERE/../admin/partitions.conf" "$admin/partitions.conf"
  # Detection does not know version 1 beside an empty version 2.
  sed 's/^CgroupPlugin=.*/CgroupPlugin=cgroup\/v1/' "$HERE/../admin/cgroup.conf" >"$DIR/cgroup.conf"
}

admin_lines() {
  # what a slurmdbd of another munge is asked with
  [[ $MUNGE == system ]] || echo "AccountingStoragePass=$DIR/munge.socket"
  printf 'AccountingStoragePort=%d\ninclude %s\ninclude %s\n' $((PORT + 2)) "$DIR/admin/slurm.conf" "$DIR/admin/partitions.conf"
}

admin_check() {
  local program group
  [[ $(id -u) == 0 ]] || die "K15_LOCAL_SLURM_ADMIN needs root, for control groups and devices"
  for program in mariadbd slurmdbd sacctmgr; do
    command -v "$program" >/dev/null || die "K15_LOCAL_SLURM_ADMIN needs $program: apt-get install mariadb-server-core slurmdbd"
  done
  [[ $MODE == namespaces ]] || die "K15_LOCAL_SLURM_ADMIN needs namespaces (mode $MODE): nodes must not see each other's processes"
  for group in "${GROUPS_V1[@]}"; do
    [[ -w /sys/fs/cgroup/$group/cgroup.procs ]] ||
      die "K15_LOCAL_SLURM_ADMIN needs control groups of version 1 that root can write; /sys/fs/cgroup/$group is none"
  done
}

group_name() { echo "slurmbox-$NAME-$PREFIX$1"; } # node number

# Puts this process into the node's own control groups; a new cgroup namespace then begins there.
enter_groups() { # node number
  local group dir
  for group in "${GROUPS_V1[@]}"; do
    dir=/sys/fs/cgroup/$group/$(group_name "$1")
    mkdir -p "$dir"
    if [[ $group == cpuset ]]; then
      cat "${dir%/*}/cpuset.cpus" >"$dir/cpuset.cpus"
      cat "${dir%/*}/cpuset.mems" >"$dir/cpuset.mems"
    fi
    echo "$BASHPID" >"$dir/cgroup.procs"
  done
}

drop_groups() { # node number
  local group dir i
  for group in "${GROUPS_V1[@]}"; do
    dir=/sys/fs/cgroup/$group/$(group_name "$1")
    for ((i = 0; i < 40; i++)); do
      [[ -d $dir ]] || break
      find "$dir" -depth -type d -exec rmdir {} \; 2>/dev/null || true # while the last process is being reaped
      [[ ! -d $dir ]] || sleep 0.1
    done
  done
}

mariadbd_pid() { live_pid "$DIR/run/mariadbd.pid" "$DIR"; }
slurmdbd_pid() { live_pid "$DIR/run/slurmdbd.pid" slurmdbd; }

# What the site's file says, but for the size: a box has little memory. Addresses may have changed since the last time.
database_conf() {
  sed -e 's/^innodb_buffer_pool_size.*/innodb_buffer_pool_size = 32M/' -e 's/^innodb_log_file_size.*/innodb_log_file_size = 16M/' \
    "$HERE/../admin/mariadb.cnf"
  cat <<END
datadir = $DIR/mariadb
socket = $DIR/run/mariadb.sock
pid-file = $DIR/run/mariadbd.pid
port = $((PORT + 3))
user = root
skip-name-resolve
# nobody would miss this database after a crash
innodb_flush_log_at_trx_commit = 0
innodb_flush_method = nosync
performance_schema = 0
END
}

# The tables of MariaDB itself, the database of slurmdbd and its user. 4 s; mariadb-install-db would want the client.
make_database() {
  local password sql=/usr/share/mysql
  database_conf >"$DIR/mariadb.cnf"
  if [[ ! -e $DIR/mariadb/password ]]; then
    rm -rf "$DIR/mariadb" && mkdir -m 700 "$DIR/mariadb"
    password=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
    {
      printf '%s\n' 'create database mysql;' 'use mysql;' "set @auth_root_socket='root';"
      cat $sql/mysql_system_tables.sql $sql/mysql_system_tables_data.sql
      printf '%s\n' 'create database slurm_acct_db;' 'flush privileges;' \
        "create user slurm@'127.0.0.1' identified by '$password';" "grant all on slurm_acct_db.* to slurm@'127.0.0.1';"
    } | mariadbd --defaults-file="$DIR/mariadb.cnf" --bootstrap >"$DIR/log/mariadb-bootstrap.log" 2>&1 8>&- ||
      die "MariaDB could not be set up; see $DIR/log/mariadb-bootstrap.log"
    echo "$password" >"$DIR/mariadb/password"
  fi
  (umask 077 && slurmdbd_conf "$(<"$DIR/mariadb/password")" >"$DIR/slurmdbd.conf")
}

slurmdbd_conf() { # password
  local auth=
  [[ $MUNGE == system ]] || auth="AuthInfo=socket=$DIR/munge.socket"
  sed -e "s/^DbdHost=.*/DbdHost=$HOST\nDbdAddr=$(admin_address)/" -e "s/^DbdPort=.*/DbdPort=$((PORT + 2))/" \
    -e "s/^StorageHost=.*/StorageHost=127.0.0.1/" -e "s/^StoragePort=.*/StoragePort=$((PORT + 3))/" \
    -e "s/^SlurmUser=.*/SlurmUser=$(id -un)/" -e "s#^PidFile=.*#PidFile=$DIR/run/slurmdbd.pid#" \
    -e "s#^LogFile=.*#LogFile=$DIR/log/slurmdbd.log#" -e "s/^StoragePass=.*/StoragePass=$1/" "$HERE/../admin/slurmdbd.conf"
  printf '%s\n' "$auth" 'CommitDelay=1'
}

# MariaDB, slurmdbd and the accounts; slurmctld, which refuses jobs without an account, comes after them.
ensure_accounting() {
  local i
  [[ -n $ADMIN ]] || return 0
  make_database
  if ! mariadbd_pid >/dev/null; then
    setsid mariadbd --defaults-file="$DIR/mariadb.cnf" </dev/null >>"$DIR/log/mariadb.log" 2>&1 8>&- &
  fi
  for ((i = 0; i < 300; i++)); do
    if [[ -S $DIR/run/mariadb.sock ]] && mariadbd_pid >/dev/null; then break; fi
    sleep 0.1
  done
  mariadbd_pid >/dev/null || die "MariaDB did not start; see $DIR/log/mariadb.log"
  if ! slurmdbd_pid >/dev/null; then
    SLURM_CONF=$CONF slurmdbd </dev/null >>"$DIR/log/slurmdbd.start" 2>&1 8>&- ||
      die "slurmdbd did not start; see $DIR/log/slurmdbd.log"
  fi
  export SLURM_CONF=$CONF
  for ((i = 0; i < 60; i++)); do
    ! timeout 10 sacctmgr -nP list cluster >>"$DIR/log/accounts.log" 2>&1 || break
    sleep 0.5
  done
  ((i < 60)) || die "slurmdbd does not answer; see $DIR/log/accounts.log and slurmdbd.log"
  make_accounts
  [[ -z $(sacctmgr -nP list association where user=root account=research) ]] || return 0
  {
    sacctmgr -iQ add user root account=research && sacctmgr -iQ modify user root set defaultaccount=research
  } >>"$DIR/log/accounts.log" 2>&1 || die "root got no account; see $DIR/log/accounts.log"
}

make_accounts() {
  [[ -n $ADMIN ]] || return 0
  SLURM_CONF=$CONF "$DIR/admin/accounts" "$NAME" research=80 >>"$DIR/log/accounts.log" 2>&1 ||
    die "the accounts were not made; see $DIR/log/accounts.log and slurmdbd.log"
}

stop_accounting() {
  local pid
  if pid=$(slurmdbd_pid); then end_process "$pid"; fi
  if pid=$(mariadbd_pid); then end_process "$pid"; fi
}
