# an upgrade from the chart before and a rollback to it: every request that is made meanwhile is issued

# The chart before: another version, image, resources, log level and guard.
version=$(sed -n 's/^version: //p' "$chart/Chart.yaml")
cp -r "$chart" "$dir/tmp/previous"
sed -i -E 's/^(version|appVersion): .*/\1: 0.0.9/' "$dir/tmp/previous/Chart.yaml"
sed -i "/'system:nodes' in request/,+2d" "$dir/tmp/previous/templates/admission-guard.yaml"
helm package "$dir/tmp/previous" --destination "$dir/tmp" >/dev/null
inside ctr -n k8s.io images tag "podmint.dev/podmint-signer:$version" podmint.dev/podmint-signer:0.0.9 >/dev/null
images() { kube -n podmint-system get pods -l app.kubernetes.io/name=podmint -o json | jq -r '[.items[] | select(.metadata.deletionTimestamp == null) | .spec.containers[0].image | split(":")[1]] | unique | join(" ")'; }
runs() { [ "$(images)" = "$1" ]; }

helm uninstall podmint --wait --timeout 60s >/dev/null
chart=$dir/tmp/podmint-0.0.9.tgz helm_install --set log.level=debug,resources.requests.cpu=30m --wait --timeout 90s
runs 0.0.9 || fail "the chart before does not run its image but $(images)"
until_true 30 "the signer does not see that the guard is another" guard_is other_text

# Somebody starts a pod every second and a half, and the others go on meanwhile.
namespace story-upgrade
ask() {
  local n=0
  while [ ! -e "$dir/tmp/asked-enough" ]; do
    n=$((n + 1))
    pod "p$n" | kube -n story-upgrade apply -f - >/dev/null || exit 1
    sleep 1.5
  done
  echo $n >"$dir/tmp/asked"
}
ask &
asker=$!
issued() { kube -n story-upgrade get podcertificaterequests -o json | jq '[.items[] | select(any(.status.conditions[]?; .type == "Issued"))] | length'; }
more_than() { [ "$(issued)" -gt "$1" ]; }

until_true 30 "nothing is issued before the upgrade" more_than 0
helm_upgrade
runs "$version" || fail "after the upgrade $(images) runs"
until_true 30 "the signer does not see its own guard after the upgrade" guard_is in_force
until_true 30 "nothing is issued after the upgrade" more_than "$(issued)"
helm rollback podmint 1 --wait --timeout 120s >/dev/null || fail "helm rollback failed"
runs 0.0.9 || fail "after the rollback $(images) runs"
until_true 30 "the signer does not see the other guard after the rollback" guard_is other_text
until_true 30 "nothing is issued after the rollback" more_than "$(issued)"
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
