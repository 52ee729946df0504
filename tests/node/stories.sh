# What the stories are told with. Each story is a file below stories/: its first line is its title, the rest runs in a
# subshell that ends at the first thing that is not as it should be.

signer_name=podmint.dev/workload
trust_domain=node.test

# Is this story asked for? The first one installs, and the others stand on it. Those that say `# long` below their title come only
# when they are named.
wanted() {
  local name word
  name=$(basename "$1" .sh)
  shift
  case $name in 01-*) return 0 ;; esac
  if [ $# -eq 0 ]; then
    ! is_marked "$here/stories/$name.sh" long || { say "left out  $(sed -n '1s/^# //p' "$here/stories/$name.sh"): tests/run --long" && return 1; }
    return 0
  fi
  for word in "$@"; do case $name in *"$word"*) return 0 ;; esac; done
  return 1
}

# is_marked FILE long|quiet   by the line below its title. A quiet story leaves the signer, the kubelet and the machine alone.
is_marked() { [[ $(sed -n 2p "$1") == "# $2"* ]]; }

run_story() {
  # No condition: in one, the story's own `set -e` would not count.
  set +e
  tell "$1"
  count $?
  set -e
}
count() { if [ "$1" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi; }

# Several at a time: they mostly wait. In the machine's cgroups, so that they end with it whatever happens to this shell.
run_together() {
  local story told=()
  for story in "$@"; do
    (
      join
      tell "$story"
    ) >"$dir/log/$(basename "$story" .sh)" 2>&1 &
    told+=($!)
  done
  for story in "$@"; do
    set +e
    wait "${told[0]}"
    count $?
    set -e
    told=("${told[@]:1}")
    cat "$dir/log/$(basename "$story" .sh)" >&2
  done
}

# Runs a story and says how it went. Leaves `set -e` off.
tell() {
  local title begun=$SECONDS status
  title=$(sed -n '1s/^# //p' "$1")
  set +e
  (
    set -e
    # shellcheck source=/dev/null
    . "$1"
  )
  status=$?
  if [ $status -eq 0 ]; then
    say "ok    $(basename "$1" .sh | cut -c1-2)  $title ($((SECONDS - begun)) s)"
    return 0
  fi
  [ $status -lt 128 ] || exit $status
  say "FAIL  $(basename "$1" .sh | cut -c1-2)  $title"
  evidence
  return 1
}

# What one wants to see when a story failed.
evidence() {
  {
    kube get pods -A -o wide
    kube get podcertificaterequests -A
    kube get events -A --field-selector type=Warning --sort-by=.lastTimestamp | tail -12
    kube -n podmint-system logs deployment/podmint-signer --tail=12
  } 2>&1 | cut -c1-260 | sed 's/^/      | /' >&2 || true
}

# A fact worth a line: a time, a number.
fact() { say "         $*"; }

# --- Making things.

namespace() {
  kube create namespace "$1" >/dev/null
  # Pods are refused until then.
  until_true 90 "namespace $1 has no ServiceAccount" kube -n "$1" get serviceaccount default
}

# Ends a namespace and waits until it is gone, so that its pods burden no later story.
gone() { kube delete namespace "$@" --timeout 240s >/dev/null || fail "namespace $* did not go"; }

# pod NAME [KEY=VALUE …]   prints a pod that sleeps with an identity in /identity.
#   key: key type; life: seconds; user: a uid or none; group: fsGroup or none; account: ServiceAccount; labels; extra: lines of its spec
pod() {
  local name=$1 key=ECDSAP256 life=86400 user=65532 group=65532 account=default extra='' pair
  shift
  for pair in "$@"; do local "${pair%%=*}=${pair#*=}"; done
  cat <<EOF
apiVersion: v1
kind: Pod
metadata: {name: $name, labels: {app: $name}}
spec:
  serviceAccountName: $account
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext: {$([ "$group" = none ] || echo "fsGroup: $group")}
$extra
  containers:
    - name: main
      image: podmint.dev/node/agnhost:1
      imagePullPolicy: Never
      args: [pause]
      securityContext: {$([ "$user" = none ] && echo "runAsUser: 0" || echo "runAsUser: $user, runAsNonRoot: true")}
      volumeMounts: [{name: identity, mountPath: /identity, readOnly: true}]
$(identity_volume "$key" "$life")
EOF
}

# The volume that a pod gets its identity by.
identity_volume() {
  cat <<EOF
  volumes:
    - name: identity
      projected:
        sources:
          - podCertificate: {signerName: $signer_name, keyType: $1, maxExpirationSeconds: $2, credentialBundlePath: bundle.pem}
          - clusterTrustBundle: {signerName: $signer_name, labelSelector: {}, path: trust.pem}
EOF
}

apply() { kube -n "$1" apply -f - >/dev/null || fail "the API server refused an object"; }

# --- Waiting for things.

phase_is() { [ "$(kube -n "$1" get pod "$2" -o jsonpath='{.status.phase}')" = "$3" ]; }
running() { until_true "${3:-120}" "pod $1/$2 is not Running" phase_is "$1" "$2" Running; }
event_says() { grep -qE "$3" <<<"$(kube -n "$1" get events --field-selector "involvedObject.name=$2" -o jsonpath='{range .items[*]}{.message}{"\n"}{end}')"; }

# Waits seconds that a thing must not happen in, and fails when it does.
stays() {
  local limit=$((SECONDS + $1)) reason=$2
  shift 2
  while [ $SECONDS -lt $limit ]; do
    "$@" >/dev/null 2>&1 || fail "$reason"
    sleep 0.5
  done
}

# --- Looking at things. The files are read on the node: where the kubelet wrote them, without the pod's help.

volume_of() { # NAMESPACE POD [VOLUME]
  echo "/var/lib/kubelet/pods/$(kube -n "$1" get pod "$2" -o jsonpath='{.metadata.uid}')/volumes/kubernetes.io~projected/${3:-identity}"
}
file_of() { inside cat "$(volume_of "$1" "$2")/$3" 2>/dev/null; } # NAMESPACE POD FILE
serial_of() { file_of "$1" "$2" bundle.pem | openssl x509 -noout -serial; }
# all_new NUMBER BEFORE   a filter: so many serials, and none of those before. A certificate that cannot be read has none.
all_new() {
  local now
  now=$(cat)
  [ -n "$2" ] && [ "$(grep -c '^serial=.' <<<"$now")" = "$1" ] && ! grep -qxF "$2" <<<"$now"
}
# The kubelet has begun with the pod, and has written nothing; the volume itself need not be there.
has_no_files() {
  local at
  at=$(volume_of "$1" "$2")
  inside test -d "${at%/*/*}" && [ -z "$(inside find "$at" -type f 2>/dev/null)" ]
}

# The pod has a key, a certificate for it with exactly this SPIFFE ID, and roots that verify it.
has_identity() { # NAMESPACE POD SERVICE_ACCOUNT
  local work=$dir/tmp/identity.$BASHPID id="spiffe://$trust_domain/ns/$1/sa/$3" said
  mkdir -p "$work"
  file_of "$1" "$2" bundle.pem >"$work/bundle.pem"
  file_of "$1" "$2" trust.pem >"$work/trust.pem"
  [ "$(openssl pkey -in "$work/bundle.pem" -pubout)" = "$(openssl x509 -in "$work/bundle.pem" -noout -pubkey)" ] ||
    fail "pod $1/$2: the key is not the certificate's"
  # The bundle has the leaf first; what follows are intermediates.
  openssl verify -CAfile "$work/trust.pem" -untrusted "$work/bundle.pem" "$work/bundle.pem" >"$work/said" 2>&1 ||
    fail "pod $1/$2: the chain does not verify: $(tr '\n' ' ' <"$work/said")"
  said=$(openssl x509 -in "$work/bundle.pem" -noout -ext subjectAltName | sed -n '2s/^ *//p')
  [ "$said" = "URI:$id" ] || fail "pod $1/$2: certificate for '$said', not for '$id'"
  rm -rf "$work"
}

requests_of() { # NAMESPACE POD JSONPATH
  kube -n "$1" get podcertificaterequests --field-selector "spec.podName=$2" -o "jsonpath={range .items[*]}$3{\"\\n\"}{end}"
}
asked() { [ -n "$(requests_of "$1" "$2" '{.metadata.name}')" ]; }
is_answered() { [ -n "$(requests_of "$1" "$2" '{.status.conditions[*].type}' | tr -d '\n')" ]; }
not_answered() { ! is_answered "$@"; }

# --- What the signer's replicas use, as the kernel counts it.

# each_signer COMMANDS   runs them on the node for each replica, with its process in $p
each_signer() { inside sh -c "for p in \$(pgrep -x podmint-signer); do $1; done"; }
# Microseconds of CPU of all replicas so far; by cgroup, of version 1 or 2.
signer_cpu_us() {
  each_signer '
    at=$(sed -n "s#^[0-9]*:[a-z,]*cpuacct[a-z,]*:#/sys/fs/cgroup/cpuacct#p" /proc/$p/cgroup)
    if [ -n "$at" ]; then echo "$(($(cat "$at/cpuacct.usage") / 1000))"
    else sed -n "s/^usage_usec //p" "/sys/fs/cgroup$(sed -n s/^0:://p /proc/$p/cgroup)/cpu.stat"; fi' | awk '{ sum += $1 } END { print sum }'
}
# KiB of the larger replica: VmRSS now, VmHWM at most since the last signer_peak_anew.
signer_kib() { each_signer "sed -n 's/^$1:[^0-9]*\([0-9]*\).*/\1/p' /proc/\$p/status" | sort -n | tail -1; }
signer_peak_anew() { each_signer 'echo 5 >/proc/$p/clear_refs'; }

# --- Doing things to the machine and to the signer.

restart() { # SERVICE
  local pid
  pid=$(cat "$dir/pid/$1")
  inside kill -TERM "$pid"
  until_true 90 "$1 did not come back" another_pid "$1" "$pid"
}
another_pid() { [ -s "$dir/pid/$1" ] && [ "$(cat "$dir/pid/$1")" != "$2" ]; }

signer_down() {
  kube -n podmint-system scale deployment/podmint-signer --replicas 0 >/dev/null
  until_true 90 "the signer's pods did not end" no_signer
}
signer_up() {
  kube -n podmint-system scale deployment/podmint-signer --replicas 2 >/dev/null
  kube -n podmint-system rollout status deployment/podmint-signer --timeout 180s >/dev/null || fail "the signer did not become ready"
}
no_signer() { [ -z "$(kube -n podmint-system get pods -l app.kubernetes.io/name=podmint -o name)" ]; }

# policy FILE   puts other values in force.
policy() {
  helm_upgrade --values "$1"
  until_true 60 "the signer does not follow its PodSigner" is_observed
}
is_observed() {
  local said
  said=$(kube get podsigner workload -o 'jsonpath={.metadata.generation}={.status.observedGeneration}') && [ "${said%=*}" = "${said#*=}" ]
}

# every_replica METRIC VALUE   whether all replicas show it.
every_replica() {
  local address seen=0
  for address in $(kube -n podmint-system get pods -l app.kubernetes.io/name=podmint -o 'jsonpath={.items[*].status.podIP}'); do
    grep -qxF "$1 $2" <<<"$(inside curl -fsS "http://$address:9443/metrics")" || return 1
    seen=$((seen + 1))
  done
  [ $seen -ge 1 ]
}
guard_is() { every_replica "podmint_signer_guard{state=\"$1\"}" 1; }
