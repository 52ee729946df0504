# What is put on the fresh node, in the order a platform team would.

cluster_ready() {
  until_true 150 "the API server did not become ready: $(tail -2 "$dir/log/kube-apiserver" 2>/dev/null)" kube get --raw /readyz
  until_true 90 "the node did not become Ready: $(tail -2 "$dir/log/kubelet" 2>/dev/null)" node_ready
  until_true 90 "the default ServiceAccount did not appear" kube get serviceaccount default
}

node_ready() { [ "$(kube get node "$node" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }

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

# Helm as the cluster's administrator, and the two calls of it that stories make: with what is installed, and what may follow.
helm() { HOME=$dir/home on_net "$helm_program" --kubeconfig "$dir/pki/admin.kubeconfig" --namespace podmint-system "$@"; }
chart=$root/deploy/helm/podmint
helm_install() { helm install podmint "$chart" --values "$here/pods/values.yaml" "$@" >"$dir/log/helm" 2>&1 || fail "helm install: $(tail -3 "$dir/log/helm")"; }
helm_upgrade() {
  helm upgrade podmint "$chart" --values "$here/pods/values.yaml" --wait --timeout 120s "$@" >"$dir/log/helm" 2>&1 ||
    fail "helm upgrade: $(tail -3 "$dir/log/helm")"
}

# As the README of deploy/ tells it: a namespace, and the chart.
install_signer() {
  kube apply -f "$root/deploy/kustomize/namespace.yaml" >/dev/null
  helm_install
}
