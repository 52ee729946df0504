# The machine: namespaces of its own for processes, mounts, network, IPC and host name, cgroups of its own, and one folder.
# Sourced by run, janitor and the stories.
#
# Everything a node does happens below process 1 of that process namespace (`init`). When it dies, the kernel kills
# every process of the machine, and with the last of them its mounts and its network go. What the kernel does not take away are
# the cgroups and the folder; `machine_down` does, and then looks whether anything is left.

# Sets up the globals that name one machine: its folder, its cgroup.
machine_of() {
  dir=$1
  group=podmint-node-${dir##*.}
}

# The mounted cgroup hierarchies: many on a machine with cgroup v1, one with v2.
hierarchies() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
  else
    # Also the empty v2 hierarchy that such a machine may have beside them: runc makes groups there, too.
    sed -n 's#^[^ ]* \(/sys/fs/cgroup/[^ ]*\) cgroup2\{0,1\} .*#\1#p' /proc/mounts
  fi
}

cgroups_make() {
  local at
  for at in $(hierarchies); do
    mkdir -p "$at/$group"
    case $at in
      # A new cpuset is empty, and an empty one takes no process.
      */cpuset*) for it in cpus mems; do cat "$at/cpuset.$it" >"$at/$group/cpuset.$it"; done ;;
      # v2: processes may only be in leaves, and children get the controllers that their parent passes on.
      /sys/fs/cgroup) sed 's/\(^\| \)/\1+/g' "$at/cgroup.controllers" >"$at/$group/cgroup.subtree_control" ;;
    esac
    mkdir -p "$at/$group/system"
    case $at in */cpuset*) for it in cpus mems; do cat "$at/$group/cpuset.$it" >"$at/$group/system/cpuset.$it"; done ;; esac
  done
}

# Puts the calling shell into the machine's cgroups, so that what it starts ends with the machine. Only in a subshell.
join() {
  local at
  for at in $(hierarchies); do echo "$BASHPID" >"$at/$group/system/cgroup.procs"; done
}

# Starts process 1, in its cgroups, and waits until it has made its mounts and its network.
machine_up() {
  cgroups_make
  rm -f "$dir/booted"
  (
    join
    exec setsid unshare --fork --kill-child --pid --mount --net --ipc --uts \
      "$here/init" "$dir" "$group" </dev/null >>"$dir/log/init" 2>&1
  ) &
  echo $! >"$dir/machine.pid"
  # The shell need not report how it ends: the machine is always killed.
  disown
  until_true 90 "the machine did not come up: $(tail -3 "$dir/log/init" 2>/dev/null)" test -e "$dir/booted"
  # Seen from outside, process 1 is the child of unshare.
  cat "/proc/$(cat "$dir/machine.pid")/task/$(cat "$dir/machine.pid")/children" >"$dir/init.pid"
}

# Runs a command inside: all namespaces, or only the network (for commands that read files outside).
inside() { nsenter --target "$(tr -d ' ' <"$dir/init.pid")" --mount --net --pid --ipc --uts "$@"; }
on_net() { nsenter --target "$(tr -d ' ' <"$dir/init.pid")" --net "$@"; }

# A power cut: every process at once, without a word.
power_off() {
  local pid at
  for pid in $(cat "$dir/init.pid" "$dir/machine.pid" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
  # Whoever is left in our cgroups is ours: a command that `inside` started when process 1 was already gone.
  for _ in $(seq 100); do
    pids=$(members)
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086 # a list
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  for at in $(hierarchies); do
    # One is busy for a moment after its last process.
    for _ in $(seq 100); do
      [ -d "$at/$group" ] || break
      find "$at/$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.2
    done
  done
  rm -f "$dir/init.pid" "$dir/machine.pid"
}

members() {
  local at
  for at in $(hierarchies); do
    [ ! -d "$at/$group" ] || find "$at/$group" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -u
}

# Takes everything away and says what could not be. Safe to call at any time, more than once, and by two at once.
machine_down() {
  local left
  [ -d "$dir" ] || return 0
  exec 8<"$dir"
  flock 8
  if [ -d "$dir" ]; then
    power_off
    # A process namespace is gone a moment after its last process; until then its mounts may still be there.
    for _ in $(seq 50); do grep -qF "$dir" /proc/[0-9]*/mountinfo 2>/dev/null || break; sleep 0.1; done
    cp "$dir/host.before" "${dir%/*}/.${dir##*/}.before" 2>/dev/null || true
    # More than once: a command of a run that was killed may be writing its last file.
    for _ in 1 2 3; do rm -rf --one-file-system "$dir" && break || sleep 0.3; done 2>/dev/null
  fi
  exec 8<&-
  for _ in $(seq 60); do
    left=$(leftovers)
    [ -n "$left" ] || break
    sleep 0.2
  done
  rm -f "${dir%/*}/.${dir##*/}.before"
  [ -z "$left" ] || {
    printf 'tests/node: left behind:\n%s\n' "$left" >&2
    return 1
  }
}

# One line for each thing of this machine that is still there.
leftovers() {
  local pid before=${dir%/*}/.${dir##*/}.before
  for pid in /proc/[0-9]*; do
    # A zombie is dead; when its entry goes is its parent's affair.
    if ! grep -q '^State:.Z' "$pid/status" 2>/dev/null && grep -qF "/$group" "$pid/cgroup" 2>/dev/null; then echo "process ${pid#/proc/}: $(tr '\0' ' ' <"$pid/cmdline" 2>/dev/null)"; fi
  done
  grep -hF "$dir" /proc/[0-9]*/mountinfo 2>/dev/null | sort -u | sed 's/^/mount /' || true
  find /sys/fs/cgroup -maxdepth 2 -type d -name "$group" | sed 's/^/cgroup /'
  [ ! -e "$dir" ] || echo "folder $dir"
  [ ! -e "$before" ] || host_facts | diff "$before" - | sed -n 's/^> /on the host: /p; s/^< /gone from the host: /p'
}

# What a node would change on its host if it were not shut in: the places it writes to, its links, named namespaces, packet filter,
# kernel settings. Links of others come and go.
host_facts() {
  local at
  for at in /var/lib/{kubelet,containerd,cni,etcd,containers} /var/log/{pods,containers} /run/{containerd,kubernetes,netns,flannel,xtables.lock} \
    /etc/{cni,kubernetes} /usr/libexec/kubernetes /opt/cni; do
    if [ -e "$at" ]; then find "$at" -maxdepth 1 | sort; fi
  done
  ip -o link show | sed -n 's/^[0-9]*: \(node0\|wire0\)[:@].*/link \1/p' | sort
  { nft list tables; } 2>/dev/null | sort
  for at in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    echo "$at=$(cat "/proc/sys/$at")"
  done
}
