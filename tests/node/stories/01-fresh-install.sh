# a fresh install gives a waiting pod its first certificate

namespace story-first
pod early key=ECDSAP256 | apply story-first
until_true 60 "the pod did not say what it waits for" event_says story-first early "not issued yet|no credentials yet|unable to fetch"
stays 3 "a pod started without a signer" phase_is story-first early Pending
has_no_files story-first early || fail "files without a certificate"
bundles=$(kube get clustertrustbundles -o name)
! grep -q podmint <<<"$bundles" || fail "a trust bundle before the install"

begun=$(now_ms)
install_signer
fact "helm install took $(($(now_ms) - begun)) ms"
until_true 120 "nothing was issued" is_answered story-first early
fact "install to first certificate issued: $(($(now_ms) - begun)) ms"
# The kubelet looks again after a back-off that has grown while nobody answered.
running story-first early 150
fact "install to the waiting pod Running: $(($(now_ms) - begun)) ms"
has_identity story-first early default
kube -n podmint-system rollout status deployment/podmint-signer --timeout 180s >/dev/null || fail "not all replicas became ready"
is_issuing() { [ "$(kube get podsigner workload -o jsonpath='{.status.state}')" = Issuing ]; }
until_true 90 "the PodSigner does not say that it issues" is_issuing
fact "kubectl get podsigners: $(kube get podsigners --no-headers)"
# Only CA administrators change PodSigners: neither edit nor admin has the right, and whoever views the cluster sees them.
can() { kube auth can-i "$1" podsigners.podmint.dev --as ann 2>/dev/null || true; }
may() { [ "$(can "$1")" = yes ]; }
may_not() { [[ $(can "$1") = no* ]]; }
kube create clusterrolebinding story-ann --clusterrole admin --user ann >/dev/null
until_true 60 "an admin does not see PodSigners" may list
may_not update && may_not delete || fail "an admin may change PodSigners"
kube create clusterrolebinding story-ann-ca --clusterrole podmint-ca-administrator --user ann >/dev/null
until_true 60 "a CA administrator may not change PodSigners" may update
kube delete clusterrolebinding story-ann story-ann-ca >/dev/null
# The guard that the chart installed is the one that the signer was built with.
until_true 90 "the signer does not see its guard in force" guard_is in_force

begun=$(now_ms)
pod next | apply story-first
running story-first next
fact "a pod created now Running: $(($(now_ms) - begun)) ms"
has_identity story-first next default
[ "$(serial_of story-first early)" != "$(serial_of story-first next)" ] || fail "two certificates with one serial"
gone story-first
