# a signer deleted while a pod starts: the pod waits, then starts

namespace story-wait
signer_down
pod late | apply story-wait
until_true 60 "the kubelet made no request" asked story-wait late
until_true 60 "the pod does not say what it waits for" event_says story-wait late "not issued yet"
stays 5 "a pod started without a certificate" phase_is story-wait late Pending
has_no_files story-wait late || fail "files without a certificate"
! is_answered story-wait late || fail "answered by nobody"
signer_up
running story-wait late 150
has_identity story-wait late default

# Both replicas at once, and a pod created in the same moment.
kube -n podmint-system delete pods -l app.kubernetes.io/name=podmint --wait=false >/dev/null
begun=$(now_ms)
pod during | apply story-wait
running story-wait during 150
fact "pod created while both replicas are replaced, Running after $(($(now_ms) - begun)) ms"
has_identity story-wait during default
kube -n podmint-system rollout status deployment/podmint-signer --timeout 180s >/dev/null
gone story-wait
