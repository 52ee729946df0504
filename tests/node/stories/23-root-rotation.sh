# a rotation of the root in real time: nobody is refused, before and after every pod has changed over
# long: the next root has to be published for a quarter of an hour before it signs

. "$here/echo.sh"
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/podmint/target}
(join && CARGO_TARGET_DIR=$target cargo build --quiet --release --manifest-path "$root/Cargo.toml" --workspace --bins) || fail "kubectl-podmint was not built"
echo_up "$root/deploy/examples/echo.yaml"
phase() { kube get podsigner workload -o 'jsonpath={.status.authority.phase}'; }
published() { kube get clustertrustbundles --field-selector "spec.signerName=$signer_name" -o 'jsonpath={.items[*].spec.trustBundle}'; }
roots_in() { grep -c 'BEGIN CERTIFICATE'; }
roots_of() { inside cat "$(volume_of echo "$(echo_pod "$1")" trust)/roots.pem"; }
both_in() { [ "$(roots_of "$1" | roots_in)" = 2 ]; }
published | openssl x509 >"$dir/tmp/old-root.pem"
[ "$(published | roots_in)" = 1 ] || fail "not one root to begin with"

begun=$(now_ms)
on_net "$target/release/kubectl-podmint" rotate workload --kubeconfig "$dir/pki/admin.kubeconfig" >&2 || fail "the rotation was not asked for"
since() { echo "$((($(now_ms) - begun) / 1000)).$((($(now_ms) - begun) % 1000 / 100)) s"; }
two_published() { [ "$(published | roots_in)" = 2 ]; }
until_true 60 "the next root is not published" two_published
fact "asked to published: $(since)"
seen=$(now_ms)
for side in server client; do
  until_true 300 "the next root is not in the volume of echo-$side" both_in "$side"
  fact "published to in the volume of echo-$side: $((($(now_ms) - seen) / 1000)) s"
done
before=$(echo_serials)

# Pods that start now still get a certificate of the root that all know.
under() { # ROOTS NAMESPACE POD
  file_of "$2" "$3" bundle.pem >"$dir/tmp/under.pem" && openssl verify -CAfile "$1" -untrusted "$dir/tmp/under.pem" "$dir/tmp/under.pem" >/dev/null 2>&1
}
namespace story-root
pod early | apply story-root
running story-root early
under "$dir/tmp/old-root.pem" story-root early || fail "the next root signed before it was published for long enough"
drains() { [ "$(phase)" = drain ]; }
until_true 1200 "the next root does not sign" drains
fact "asked to the next root signing: $(since)"
[ $((($(now_ms) - seen) / 1000)) -ge 890 ] || fail "it signed after $((($(now_ms) - seen) / 1000)) s"
[ "$(published | roots_in)" = 2 ] || fail "a root was withdrawn under living certificates"
pod late | apply story-root
running story-root late
has_identity story-root late default
! under "$dir/tmp/old-root.pem" story-root late || fail "the old root signs on"

# One side has changed over, and then all.
old_pod=$(echo_pod server)
kube -n echo delete pod "$old_pod" --wait=false >/dev/null
another_server() { [ -n "$(echo_pod server)" ] && [ "$(echo_pod server)" != "$old_pod" ]; }
until_true 90 "the echo server did not come back" another_server
kube -n echo rollout status deployment/echo-server --timeout 90s >/dev/null || fail "the echo server did not start"
echo_uses_new_certificates
handshakes_failed() { echo_log "$1" | grep -c 'handshake failed' || true; }
for side in server client; do [ "$(handshakes_failed "$side")" = 0 ] || fail "echo-$side: a handshake failed between an old and a new certificate"; done
echo_is_talking
restart kubelet
changed_over() { echo_serials | all_new 2 "$before" && ! under "$dir/tmp/old-root.pem" echo "$(echo_pod server)" && ! under "$dir/tmp/old-root.pem" echo "$(echo_pod client)"; }
until_true 180 "not every pod changed over" changed_over
fact "asked to every pod changed over: $(since)"
echo_uses_new_certificates
echo_never_failed
gone story-root
