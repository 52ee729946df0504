# thirty pods with a certificate volume and thirty without, one at a time and by turns: how long each takes to start
# long: two minutes, and nothing is judged by it

namespace story-start
# From the moment that the API server shows the pod to the moment that it shows it Running, both as one watch sees them.
seen=$dir/tmp/seen
kube -n story-start get pods --watch --no-headers -o 'custom-columns=NAME:.metadata.name,PHASE:.status.phase' |
  while read -r name phase; do echo "$name $phase $(now_ms)"; done >"$seen" &
reader=$!
without_volume() { sed -e '/volumeMounts: \[{name: identity/d' -e '/^  volumes:/,$d'; }
before=
start() { # NAME FILTER
  [ -z "$before" ] || kube -n story-start delete pod "$before" --wait=false >/dev/null
  before=$1
  pod "$1" | $2 | apply story-start
  until_true 120 "pod $1 is not Running" grep -q "^$1 Running" "$seen"
}
for n in $(seq 30); do
  start "with$n" cat
  start "without$n" without_volume
done
# The last pod is there yet: what its end writes into the closed pipe ends the watch.
kill "$reader"
gone story-start

for kind in with without; do
  awk -v kind="$kind" '$1 !~ "^" kind "[0-9]" { next } !($1 in begun) { begun[$1] = $3 } $2 == "Running" && !($1 in took) { took[$1] = 1; print $3 - begun[$1] }' "$seen" |
    sort -n >"$dir/tmp/$kind"
  [ "$(wc -l <"$dir/tmp/$kind")" = 30 ] || fail "not thirty starts $kind a certificate were seen"
  fact "pod start $kind a certificate: p50 $(sed -n 15p "$dir/tmp/$kind") ms, p99 $(tail -1 "$dir/tmp/$kind") ms (30)"
done
