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

# The signer's image and the echo pair's: from this tree, or as given.
product_images() {
  if [ -n "$images" ]; then
    ln -s "$images"/podmint-*.tar "$dir/images/"
    return
  fi
  (join && exec "$root/deploy/build-images" "$dir/images") >"$dir/log/build-images" || fail "the images were not built"
  sed 's/^/  /' "$dir/log/build-images" >&2
}

# As the README of deploy/ tells it: rights, guard, configuration, signer.
install_signer() {
  kube apply -f "$root/deploy/rbac.yaml" -f "$root/deploy/admission-guard.yaml" >/dev/null
  kube -n podmint-system create configmap podmint-signers --from-file "signers.yaml=$here/pods/signers.yaml" >/dev/null
  kube apply -f "$here/pods/signer.yaml" >/dev/null
}
