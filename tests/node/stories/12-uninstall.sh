# uninstalling keeps the CA; with the CA gone and trust still published the signer holds, and never makes a root in silence

root_of() { kube get clustertrustbundles -o json | jq -r '.items[] | select(.spec.signerName == "podmint.dev/workload") | .spec.trustBundle'; }
uninstall() {
  kube delete -f "$here/pods/signer.yaml" --timeout 60s >/dev/null
  until_true 30 "the signer's pods did not end" no_signer
}
install() {
  kube apply -f "$here/pods/signer.yaml" >/dev/null
}
namespace story-uninstall
before=$(root_of)
[ -n "$before" ] || fail "no root is published"

uninstall
kube -n podmint-system get secret podmint-ca podmint-ca-root >/dev/null || fail "the CA's Secrets went with the signer"
install
pod kept | apply story-uninstall
running story-uninstall kept 90
has_identity story-uninstall kept default
[ "$(root_of)" = "$before" ] || fail "another root after an uninstall"

# The Secrets are lost, the trust bundle is not.
uninstall
kube -n podmint-system get secret podmint-ca podmint-ca-root -o json | jq 'del(.items[].metadata["resourceVersion", "uid", "creationTimestamp"])' >"$dir/tmp/ca.json"
kube -n podmint-system delete secret podmint-ca podmint-ca-root >/dev/null
install
pod lost | apply story-uninstall
stays 10 "signed without a CA" phase_is story-uninstall lost Pending
! is_answered story-uninstall lost || fail "answered without a CA"
[ "$(root_of)" = "$before" ] || fail "the published root was replaced"
said() { kube -n podmint-system logs deployment/podmint-signer --all-pods --tail=-1 | grep -iE "$1"; }
until_true 40 "the signer does not say what to do" said "secret|trust bundle"
fact "the signer: $(said 'secret|trust bundle' | grep -E 'ERROR|WARN' | tail -1 | cut -c1-300)"

# Put back, as from a backup: the same pod starts.
kube apply -f "$dir/tmp/ca.json" >/dev/null
running story-uninstall lost 150
has_identity story-uninstall lost default
[ "$(root_of)" = "$before" ] || fail "another root after the Secrets came back"
gone story-uninstall
