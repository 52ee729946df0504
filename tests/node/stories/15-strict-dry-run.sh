# every object of the chart and of the kustomize base passes a strict dry-run on the API server
# quiet

# Strict: a field that the API does not know is an error. ServiceMonitor and PrometheusRule are the Prometheus operator's: its own CRDs
# judge them.
for kind in servicemonitors prometheusrules; do
  kube apply --server-side -f "$monitoring_crds/monitoring.coreos.com_$kind.yaml" >/dev/null
  until_true 30 "the API server does not serve $kind" kube get "$kind" -A
done
strictly() { kube apply --server-side --force-conflicts --dry-run=server --validate=strict "$@" >"$dir/tmp/said" 2>&1; }
all=$dir/tmp/everything.yaml
helm template podmint "$chart" --values "$chart/ci/everything.yaml" >"$all"
grep -q '^kind: ServiceMonitor' "$all" && grep -q '^kind: PrometheusRule' "$all" || fail "that is not everything"
strictly -f "$all" || fail "refused: $(tail -3 "$dir/tmp/said")"
[ "$(grep -c 'serverside-applied (server dry run)' "$dir/tmp/said")" = "$(grep -c '^kind: ' "$all")" ] || fail "not every object was looked at"
fact "$(grep -c '^kind: ' "$all") objects with every option on; $(grep '^kind: ' "$all" | sort -u | wc -l) kinds"
! grep -i warning "$dir/tmp/said" >&2 || fail "the API server warns"
strictly -k "$root/deploy/kustomize" || fail "the kustomize base is refused: $(tail -3 "$dir/tmp/said")"

# It would be seen: one letter in a field, one in a CEL expression.
sed 's/whenUnsatisfiable: /whenUnsatisfyable: /' "$all" >"$dir/tmp/wrong.yaml"
! strictly -f "$dir/tmp/wrong.yaml" || fail "a misspelt field passed"
grep -q whenUnsatisfyable "$dir/tmp/said" || fail "refused for another reason: $(tail -3 "$dir/tmp/said")"

kube delete crd servicemonitors.monitoring.coreos.com prometheusrules.monitoring.coreos.com >/dev/null
