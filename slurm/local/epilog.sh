#!/bin/sh
# Runs on each node when a job ends there, and kills what the job left behind. proctrack/linuxproc follows parents, so
# it loses a process that made itself a daemon. Two marks tell whose it was: its environment and, on a virtual host
# where no other job runs, being an orphan at all.
[ -n "$SLURM_JOB_ID" ] || exit 0

mine() { tr '\0' '\n' <"$1/environ" 2>/dev/null | grep -qx "SLURM_JOB_ID=$SLURM_JOB_ID"; }
orphan() { [ -n "$alone" ] && [ "$(awk '{print $4}' "$1/stat" 2>/dev/null)" = 1 ]; }

alone=
if tr '\0' ' ' </proc/1/cmdline | grep -q '/node.sh ' &&
  ! pgrep -af '^slurmstepd: \[' | grep -vqF "[$SLURM_JOB_ID."; then alone=1; fi

for dir in /proc/[0-9]*; do
  pid=${dir#/proc/}
  # Slurm's own, and this script with what it starts, have the same marks
  case $pid:$(cat "$dir/comm" 2>/dev/null) in
    "$$":* | 1:* | *: | *:slurmstepd* | *:slurmd* | *:epilog* | *:tr | *:grep) continue ;;
  esac
  if mine "$dir" || orphan "$dir"; then kill -KILL "$pid" 2>/dev/null; fi
done
exit 0
