# with podNamespaces the signer's rights on pods end there: inside a pod gets its certificate, outside none

namespace story-inside
namespace story-outside
can() { kube --as system:serviceaccount:podmint-system:podmint-signer -n "$1" auth can-i get pods 2>/dev/null || true; }
signer_may() { [ "$(can "$1")" = yes ]; }
signer_may_not() { [[ $(can "$1") = no* ]]; }
until_true 30 "without podNamespaces the signer may not read every pod" signer_may story-outside
helm_upgrade --set 'podNamespaces={story-inside}'
until_true 30 "the signer may not read the pods of story-inside" signer_may story-inside
until_true 30 "the signer may still read pods elsewhere" signer_may_not story-outside
pod in | apply story-inside
pod out | apply story-outside
running story-inside in
has_identity story-inside in default
until_true 60 "the kubelet made no request" asked story-outside out
stays 5 "answered without looking at the pod" not_answered story-outside out
helm_upgrade
running story-outside out 150
has_identity story-outside out default
gone story-inside story-outside
