# The words that run and the stories are written in.

say() { printf '%s\n' "$*" >&2; }

# Ends the current story, or the run, with a reason.
fail() {
  say "tests/node: $*"
  exit 1
}

# until_true SECONDS REASON COMMAND …   waits for a command to succeed; fails with the reason when it does not in time.
until_true() {
  local limit=$((SECONDS + $1)) reason=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $limit ] || fail "$reason"
    sleep 0.2
  done
}

# Milliseconds of a clock that does not jump.
now_ms() { sed 's/\([0-9]*\)\.\([0-9]*\) .*/\1\20/' /proc/uptime; }

# kubectl as the cluster's administrator; kube_as NAME as someone else who has a kubeconfig.
kube() { kube_as admin "$@"; }
kube_as() {
  local who=$1
  shift
  HOME=$dir/home on_net "$bin/kubectl" --kubeconfig "$dir/pki/$who.kubeconfig" "$@"
}
