# sixty pods at one time all run, with and without a certificate volume

gang() { # NAMESPACE FILTER
  local n begun
  namespace "$1"
  begun=$(now_ms)
  for n in $(seq 60); do
    pod "g$n" | $2
    echo ---
  done | apply "$1"
  until_true 180 "not all sixty run" all_run "$1"
  took=$(($(now_ms) - begun))
}
all_run() { [ "$(kube -n "$1" get pods --field-selector status.phase=Running -o name | wc -l)" = 60 ]; }
without_volume() { sed -e '/volumeMounts: \[{name: identity/d' -e '/^  volumes:/,$d'; }

gang story-plain without_volume
fact "60 pods without a certificate: $took ms"
gone story-plain
gang story-gang cat
fact "60 pods with one: $took ms"
[ "$(for n in $(seq 60); do serial_of story-gang "g$n"; done | sort -u | wc -l)" = 60 ] || fail "not sixty certificates"
has_identity story-gang g1 default
has_identity story-gang g60 default
gone story-gang
