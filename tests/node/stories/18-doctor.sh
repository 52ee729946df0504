# kubectl podmint doctor sees what a kubelet alone can tell: a feature gate that is off, cgroup v1, an old container runtime

target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/podmint/target}
(join && CARGO_TARGET_DIR=$target cargo build --quiet --release --manifest-path "$root/Cargo.toml" -p podmint-signer --bin kubectl-podmint) ||
  fail "the doctor was not built"
# doctor   writes what it says to report.json; its exit status is kept in $status.
report=$dir/tmp/report.json
doctor() {
  status=0
  on_net "$target/release/kubectl-podmint" doctor --kubeconfig "$dir/pki/admin.kubeconfig" -o json >"$report" || status=$?
}
finds() { doctor && jq -e --arg id "$1" --arg place "${2:-}" '.findings[] | select(.id == $id and (.place | contains($place)))' "$report" >/dev/null; }
finds_no() { doctor && jq -e --arg id "$1" '[.findings[] | select(.id == $id)] | length == 0' "$report" >/dev/null; }

namespace story-doctor
pod well | apply story-doctor
running story-doctor well
until_true 30 "the signer's Lease is not seen" finds_no no-signer
doctor
fact "the doctor: $(jq -r '[.findings[] | "\(.severity) \(.id)"] | unique | join(", ")' "$report")"
[ "$(jq '.unseen | length' "$report")" = 0 ] || fail "not seen: $(jq -c .unseen "$report")"
[ "$(jq '[.findings[] | select(.severity == "breaks")] | length' "$report")" = 0 ] && [ $status = 0 ] || fail "a healthy node is called broken ($status): $(cat "$report")"
finds_no clock-of-node || fail "a clock is found wrong that is the API server's own"

# What this machine is like, the doctor must see; the kubelet's own word is not asked here.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then finds_no cgroup-v1; else finds cgroup-v1 "$node"; fi || fail "it is wrong about the cgroup version"
case $(kube get node "$node" -o jsonpath='{.status.nodeInfo.containerRuntimeVersion}') in
  containerd://1.*) finds runtime-ends "$node" ;;
  *) finds_no runtime-ends ;;
esac || fail "it is wrong about the container runtime"

# The gate goes off: such a pod never starts, and the doctor says which gate, where, and what to write.
cp "$dir/etc/kubelet.yaml" "$dir/tmp/kubelet.yaml"
echo 'featureGates: {PodCertificateRequest: false}' >>"$dir/etc/kubelet.yaml"
restart kubelet
until_true 60 "the gate that is off is not found" finds kubelet-gates-off "$node"
[ $status = 1 ] || fail "exit status $status for a node that breaks pods"
said=$(jq -r '.findings[] | select(.id == "kubelet-gates-off") | .mend.do' "$report")
fact "the doctor: $said"
pod stuck | apply story-doctor
until_true 60 "no event says why the pod does not start" event_says story-doctor stuck "unimplemented"
fact "the kubelet: $(kube -n story-doctor get events --field-selector involvedObject.name=stuck,reason=FailedMount -o jsonpath='{.items[0].message}')"

# Mended as it says: the line between the backticks is written, the kubelet restarted.
cp "$dir/tmp/kubelet.yaml" "$dir/etc/kubelet.yaml"
sed -n 's/.*`\(featureGates: [^`]*\)`.*/\1/p' <<<"$said" | grep -F 'PodCertificateRequest: true' >>"$dir/etc/kubelet.yaml" || fail "no gate to write in: $said"
restart kubelet
until_true 60 "the gate is still found off" finds_no kubelet-gates-off
running story-doctor stuck 150
has_identity story-doctor stuck default
cp "$dir/tmp/kubelet.yaml" "$dir/etc/kubelet.yaml"
restart kubelet
until_true 60 "the node did not become Ready" node_ready

# A key that every user of the pod could read is seen, and is what the doctor says it is.
pod open user=none group=none | apply story-doctor
running story-doctor open
case $(inside stat -L -c %a "$(volume_of story-doctor open)/bundle.pem") in
  6[04]0) finds_no key-readable-by-all ;;
  *) finds key-readable-by-all story-doctor/open ;;
esac || fail "it is wrong about who can read the key"
gone story-doctor
