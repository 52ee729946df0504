# uninstalling keeps the CA; with the CA gone and trust still published the signer holds, and never makes a root in silence

root_of() { kube get clustertrustbundles -o json | jq -r '.items[] | select(.spec.signerName == "podmint.dev/workload") | .spec.trustBundle'; }
uninstall() {
  helm uninstall podmint --wait --timeout 180s >/dev/null || fail "helm uninstall failed"
  until_true 90 "the signer's pods did not end" no_signer
  left=$(kube get podsigners,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings -l app.kubernetes.io/name=podmint -o name &&
    kube -n podmint-system get deployments,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets -l app.kubernetes.io/name=podmint -o name)
  [ -z "$left" ] || fail "the uninstall left $left"
}
namespace story-uninstall
before=$(root_of)
[ -n "$before" ] || fail "no root is published"

uninstall
kube -n podmint-system get secret podmint-ca podmint-ca-root >/dev/null || fail "the CA's Secrets went with the signer"
helm_install
pod kept | apply story-uninstall
running story-uninstall kept 150
has_identity story-uninstall kept default
[ "$(root_of)" = "$before" ] || fail "another root after an uninstall"

# The Secrets are lost, the trust bundle is not.
uninstall
kube -n podmint-system get secret podmint-ca podmint-ca-root -o json | jq 'del(.items[].metadata["resourceVersion", "uid", "creationTimestamp"])' >"$dir/tmp/ca.json"
kube -n podmint-system delete secret podmint-ca podmint-ca-root >/dev/null
helm_install
pod lost | apply story-uninstall
stays 10 "signed without a CA" phase_is story-uninstall lost Pending
held() {
  ! is_answered story-uninstall lost || fail "answered without a CA"
  [ "$(root_of)" = "$before" ] || fail "the published root was replaced"
}
held
said() { kube -n podmint-system logs deployment/podmint-signer --all-pods --tail=-1 | grep -iE "$1"; }
until_true 120 "the signer does not say what to do" said "secret|trust bundle"
# Now it has looked, however long it took to start.
held
fact "the signer: $(said 'secret|trust bundle' | grep -E 'ERROR|WARN' | tail -1 | cut -c1-300)"

# Put back, as from a backup: the same pod starts.
kube apply -f "$dir/tmp/ca.json" >/dev/null
running story-uninstall lost 150
has_identity story-uninstall lost default
[ "$(root_of)" = "$before" ] || fail "another root after the Secrets came back"
gone story-uninstall
