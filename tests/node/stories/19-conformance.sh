# with Podmint installed, upstream's own tests of pod certificates and trust bundles pass, with a signer of another name
# quiet

# They are Kubernetes' conformance tests, unmodified. Their signer is e2e.example.com/…: the guard must leave it alone.
until_true 90 "the guard is not in force: that would show nothing" guard_is in_force
image=$("$bin/conformance" --list-images 2>/dev/null | grep '/agnhost:2\.[0-9.]*$' | sort -V | tail -1)
inside ctr -n k8s.io images tag podmint.dev/node/agnhost:1 "$image" >/dev/null || fail "no image $image"
kube apply -f "$here/pods/no-registry.yaml" >/dev/null
# An API server enforces a policy a moment after it has stored it.
pulls() { kube run probe --image "$image" --image-pull-policy Always --dry-run=server -o 'jsonpath={.spec.containers[0].imagePullPolicy}'; }
until_true 90 "upstream's pods would pull their image" eval '[ "$(pulls)" = IfNotPresent ]'

upstream() { # NAME FOCUS [SKIP]   runs the tests whose names match
  (join && HOME=$dir/home TMPDIR=$dir/tmp on_net "$bin/conformance" --kubeconfig "$dir/pki/admin.kubeconfig" --provider skeleton --num-nodes 1 --ginkgo.no-color \
    --ginkgo.label-filter Conformance --ginkgo.focus "$2" --ginkgo.skip "${3:-nothing}" --ginkgo.flake-attempts 2 --ginkgo.timeout 10m) >"$dir/tmp/upstream-$1" 2>&1
}
# They mostly wait, so three at a time; some of their limits are short for a busy machine, so each test has a second attempt.
slow='big number|prevent a pod from starting'
upstream certificates 'Projected PodCertificate|PodCertificateRequest API' & certificates=$!
upstream slow "$slow" & slow_ones=$!
upstream bundles ClusterTrustBundle "PodCertificate|$slow" & bundles=$!
for it in $certificates $slow_ones $bundles; do
  wait $it || fail "upstream's tests: $(grep -hE '^ *\[(FAIL|TIMEDOUT|PANICKED)\]|^(Ran|FAIL!)' "$dir/tmp"/upstream-* | sort -u | tail -8)"
done
ran=$(sed -n 's/^Ran \([0-9]*\) of .*/\1/p' "$dir/tmp"/upstream-* | awk '{ sum += $1 } END { print sum }')
[ "$ran" = 17 ] || fail "$ran of upstream's 17 tests ran"
fact "of upstream's conformance tests $ran ran and passed"
kube delete -f "$here/pods/no-registry.yaml" >/dev/null
