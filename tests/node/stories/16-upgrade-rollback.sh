# an upgrade from a chart whose signers stood in a ConfigMap, and a rollback to it: every request that is made meanwhile is issued

# The chart before: another version, image, resources, log level and guard; no CRD, and the signers in a file.
version=$(sed -n 's/^version: //p' "$chart/Chart.yaml")
cp -r "$chart" "$dir/tmp/previous"
sed -i -E 's/^(version|appVersion): .*/\1: 0.0.9/' "$dir/tmp/previous/Chart.yaml"
sed -i "/'system:nodes' in request/,+2d" "$dir/tmp/previous/templates/admission-guard.yaml"
rm -r "$dir/tmp/previous/crds" "$dir/tmp/previous/templates/podsigners.yaml"
cat >"$dir/tmp/previous/templates/configmap.yaml" <<'CONFIGMAP'
apiVersion: v1
kind: ConfigMap
metadata: {name: podmint-signers, namespace: {{ .Release.Namespace }}, labels: {app.kubernetes.io/name: podmint}}
data:
  signers.yaml: |
    {{- range $key, $spec := .Values.signers }}
    ---
    apiVersion: podmint.dev/v1alpha1
    kind: PodSigner
    metadata: {name: {{ $key }}}
    spec: {{ merge (dict "signerName" (printf "%s/%s" $.Values.signerDomain $key)) $spec | toJson }}
    {{- end }}
CONFIGMAP
sed -i -E -e 's|^( +)- run$|&\n\1- --config=/etc/podmint/signers.yaml|' \
  -e 's|^( +)resizePolicy:|\1volumeMounts: [{name: config, mountPath: /etc/podmint, readOnly: true}]\n&|' \
  -e 's|^( +)containers:|\1volumes: [{name: config, configMap: {name: podmint-signers}}]\n&|' "$dir/tmp/previous/templates/deployment.yaml"
helm package "$dir/tmp/previous" --destination "$dir/tmp" >/dev/null
inside ctr -n k8s.io images tag "podmint.dev/podmint-signer:$version" podmint.dev/podmint-signer:0.0.9 >/dev/null
images() { kube -n podmint-system get pods -l app.kubernetes.io/name=podmint -o json | jq -r '[.items[] | select(.metadata.deletionTimestamp == null) | .spec.containers[0].image | split(":")[1]] | unique | join(" ")'; }
runs() { [ "$(images)" = "$1" ]; }

helm uninstall podmint --wait --timeout 180s >/dev/null
until_true 90 "the signer's pods did not end" no_signer
kube delete customresourcedefinition podsigners.podmint.dev >/dev/null
chart=$dir/tmp/podmint-0.0.9.tgz helm_install --set log.level=debug,resources.requests.cpu=30m --wait --timeout 180s
runs 0.0.9 || fail "the chart before does not run its image but $(images)"
until_true 90 "the signer does not see that the guard is another" guard_is other_text

# Somebody starts a pod every second and a half, later every few seconds, for a node takes about a hundred; the others go on meanwhile.
namespace story-upgrade
ask() {
  local n=0
  while [ ! -e "$dir/tmp/asked-enough" ]; do
    n=$((n + 1))
    pod "p$n" | kube -n story-upgrade apply -f - >/dev/null || exit 1
    sleep $((1 + n / 10)).5
  done
  echo $n >"$dir/tmp/asked"
}
ask &
asker=$!
issued() { kube -n story-upgrade get podcertificaterequests -o json | jq '[.items[] | select(any(.status.conditions[]?; .type == "Issued"))] | length'; }
more_than() { [ "$(issued)" -gt "$1" ]; }

until_true 90 "nothing is issued before the upgrade" more_than 0
trusted=$(kube get clustertrustbundles -o json | jq -r '.items[] | select(.spec.signerName == "podmint.dev/workload") | .spec.trustBundle')
# Whoever forgets the CRD is told so, and nothing has changed.
! (helm_upgrade) 2>/dev/null || fail "upgraded without the CRD"
grep -q 'kubectl apply --server-side' "$dir/log/helm" || fail "an upgrade without the CRD says: $(tail -3 "$dir/log/helm")"
runs 0.0.9 || fail "a refused upgrade changed what runs"
kube apply --server-side --force-conflicts -f "$chart/crds" >/dev/null
helm_upgrade
runs "$version" || fail "after the upgrade $(images) runs"
state() { kube get podsigner workload -o jsonpath='{.status.state}'; }
is_issuing() { [ "$(state)" = Issuing ]; }
until_true 90 "the signer of the ConfigMap is no PodSigner that issues" is_issuing
fact "kubectl get podsigners: $(kube get podsigners --no-headers)"
until_true 90 "the signer does not see its own guard after the upgrade" guard_is in_force
until_true 90 "nothing is issued after the upgrade" more_than "$(issued)"
helm rollback podmint 1 --wait --timeout 120s >/dev/null || fail "helm rollback failed"
runs 0.0.9 || fail "after the rollback $(images) runs"
[ "$(kube get clustertrustbundles -o json | jq -r '.items[] | select(.spec.signerName == "podmint.dev/workload") | .spec.trustBundle')" = "$trusted" ] || fail "another root"
until_true 90 "the signer does not see the other guard after the rollback" guard_is other_text
until_true 90 "nothing is issued after the rollback" more_than "$(issued)"
touch "$dir/tmp/asked-enough"
wait $asker || fail "a pod could not be created"

asked=$(cat "$dir/tmp/asked")
all_run() { [ "$(kube -n story-upgrade get pods --field-selector status.phase=Running -o name | wc -l)" = "$asked" ]; }
until_true 150 "not all $asked pods run" all_run
kube -n story-upgrade get podcertificaterequests -o json >"$dir/tmp/requests.json"
not_issued=$(jq -r '.items[] | select(any(.status.conditions[]?; .type == "Issued") | not) | .metadata.name' "$dir/tmp/requests.json")
[ -z "$not_issued" ] || fail "not issued: $not_issued"
[ "$(jq '.items | length' "$dir/tmp/requests.json")" -ge "$asked" ] || fail "fewer requests than pods"
fact "$asked pods, every request issued; the longest took $(jq '[.items[] | (.status.conditions[0].lastTransitionTime | fromdate) - (.metadata.creationTimestamp | fromdate)] | max' "$dir/tmp/requests.json") s"
helm_upgrade
runs "$version" || fail "the stories that follow stand on $(images)"
gone story-upgrade
