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

# With pods that ask for nothing the signer is idle, and all else is as it will be with those that do.
cpu=$(signer_cpu_us) begun=$(now_ms)
gang story-plain without_volume
fact "60 pods without a certificate: $took ms"
gone story-plain
idle=$((($(signer_cpu_us) - cpu) / ($(now_ms) - begun)))
fact "two idle replicas: $((idle / 10)).$((idle % 10)) % of a core, $(signer_kib VmRSS) KiB the larger"

signer_peak_anew
cpu=$(signer_cpu_us) begun=$(now_ms)
gang story-gang cat
used=$(($(signer_cpu_us) - cpu - idle * ($(now_ms) - begun)))
fact "60 pods with one: $took ms; two replicas: $((used / 60)) us of CPU for each above idle, at most $(signer_kib VmHWM) KiB the larger"
[ "$(for n in $(seq 60); do serial_of story-gang "g$n"; done | sort -u | wc -l)" = 60 ] || fail "not sixty certificates"
has_identity story-gang g1 default
has_identity story-gang g60 default
gone story-gang
