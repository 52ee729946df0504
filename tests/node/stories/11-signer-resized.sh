# the signer's CPU and memory change in place, and issuing goes on

namespace story-resize
facts() { kube -n podmint-system get pods -l app.kubernetes.io/name=podmint -o json | jq -r ".items[] | .status.containerStatuses[0] | $1"; }
before=$(facts '"\(.containerID) \(.restartCount)"')
[ "$(wc -l <<<"$before")" = 2 ] || fail "not two replicas to begin with"
for replica in $(kube -n podmint-system get pods -l app.kubernetes.io/name=podmint -o name); do
  kube -n podmint-system patch "$replica" --subresource resize -p \
    '{"spec": {"containers": [{"name": "signer", "resources": {"requests": {"cpu": "40m", "memory": "48Mi"}, "limits": {"memory": "160Mi"}}}]}}' >/dev/null ||
    fail "the API server refused to resize $replica"
done
pod meanwhile | apply story-resize
resized() { [ "$(facts '"\(.resources.requests.cpu) \(.resources.limits.memory)"' | sort -u)" = "40m 160Mi" ]; }
until_true 90 "the replicas were not resized" resized
running story-resize meanwhile
pod after | apply story-resize
running story-resize after
has_identity story-resize meanwhile default
has_identity story-resize after default
[ "$(facts '"\(.containerID) \(.restartCount)"')" = "$before" ] || fail "a container was started anew"
gone story-resize
