# a renewal by the kubelet itself, on time, reaches two running processes
# long: a certificate of one hour may be renewed after ten minutes, and the kubelet adds up to five and its own pace

. "$here/echo.sh"
# Pods that are on their way out would be asked in place of these.
! kube get namespace echo >/dev/null 2>&1 || gone echo
hourly=$dir/tmp/hourly.yaml
cat >"$hourly" <<'YAML'
signers:
  hourly:
    trustDomain: node.test
    allow: [{name: echo, namespaces: [echo], serviceAccounts: ["*"]}]
    lifetime: {max: 1h, refreshAt: [0.17, 0.17]}
    authority: {selfManaged: {secretName: podmint-ca-hourly}}
YAML
helm_upgrade --values "$hourly"
sed -e 's#podmint.dev/workload, keyType: ECDSAP256#podmint.dev/hourly, maxExpirationSeconds: 3600, keyType: ECDSAP256#' \
  -e 's#signerName: podmint.dev/workload, labelSelector#signerName: podmint.dev/hourly, labelSelector#' "$root/deploy/examples/echo.yaml" >"$dir/tmp/echo-hourly.yaml"
[ "$(grep -c podmint.dev/hourly "$dir/tmp/echo-hourly.yaml")" = 4 ] || fail "the example is not as it was"
echo_up "$dir/tmp/echo-hourly.yaml"
echo_uses_new_certificates
before=$(echo_serials) kubelet=$(cat "$dir/pid/kubelet") begun=$(now_ms)
containers() { kube -n echo get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort; }
running_before=$(containers)
[ "$(sort -u <<<"$before" | wc -l)" = 2 ] || fail "not two certificates to begin with"
end=$(file_of echo "$(echo_pod server)" bundle.pem | openssl x509 -noout -enddate)

# Twenty minutes is the most that Kubernetes promises; some more for a machine that is busy.
renewed() { echo_serials | all_new 2 "$before"; }
until_true 1500 "the kubelet did not renew both certificates" renewed
fact "first certificate to both renewed by the kubelet: $((($(now_ms) - begun) / 1000)) s"
echo_uses_new_certificates
echo_never_failed
[ "$(cat "$dir/pid/kubelet")" = "$kubelet" ] || fail "the kubelet was started anew: that is no timed renewal"
[ "$(containers)" = "$running_before" ] || fail "a container was started anew: the renewal did not reach a running process"
[ "$(file_of echo "$(echo_pod server)" bundle.pem | openssl x509 -noout -enddate)" != "$end" ] || fail "the certificate ends when it did"
gone echo
