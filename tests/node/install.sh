# What is put on the fresh node, in the order a platform team would.

cluster_ready() {
  until_true 150 "the API server did not become ready: $(tail -2 "$dir/log/kube-apiserver" 2>/dev/null)" kube get --raw /readyz
  until_true 90 "the node did not become Ready: $(tail -2 "$dir/log/kubelet" 2>/dev/null)" node_ready
  until_true 30 "the default ServiceAccount did not appear" kube get serviceaccount default
}

node_ready() { kube get node "$node" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }

install_dns() {
  kube apply -f "$here/pods/coredns.yaml" >/dev/null
  kube -n kube-system rollout status deployment/coredns --timeout 90s >/dev/null || fail "CoreDNS did not start"
}
product_images() { :; }
install_signer() { :; }
wanted() { false; }
