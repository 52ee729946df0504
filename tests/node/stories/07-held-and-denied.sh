# a held pod says what to change and starts when it is; a denied pod is final, and its corrected twin starts

held=$dir/tmp/held.yaml
sed 's/"story-\*"/"stroy-*"/' "$here/pods/values.yaml" >"$held"
! cmp -s "$here/pods/values.yaml" "$held" || fail "that is no typing error"
policy "$held"
namespace story-held
pod typo | apply story-held
until_true 90 "no event says what to change" event_says story-held typo "namespace|allow|admit"
fact "the event: $(kube -n story-held get events --field-selector involvedObject.name=typo -o json | jq -r '[.items[] | select(.source.component // .reportingComponent | test("podmint"))][0] | "\(.reason): \(.message)"')"
phase_is story-held typo Pending || fail "a held pod runs"
! is_answered story-held typo || fail "held means unanswered"
uid=$(kube -n story-held get pod typo -o jsonpath='{.metadata.uid}')
policy "$here/pods/values.yaml"
running story-held typo 150
has_identity story-held typo default
[ "$(kube -n story-held get pod typo -o jsonpath='{.metadata.uid}')" = "$uid" ] || fail "that is another pod"

# An annotation that the product does not know is a mistake in the pod, and final.
pod wrong | sed 's#credentialBundlePath: bundle.pem#&, userAnnotations: {podmint.dev/no-such-word: x}#' | apply story-held
until_true 120 "the request was not answered" is_answered story-held wrong
[ "$(requests_of story-held wrong '{.status.conditions[*].type}')" = Denied ] || fail "not denied"
fact "the condition: $(requests_of story-held wrong '{.status.conditions[0].reason}: {.status.conditions[0].message}')"
stays 3 "a denied pod runs" phase_is story-held wrong Pending
has_no_files story-held wrong || fail "files for a denied pod"
kube -n story-held delete pod wrong --timeout 120s >/dev/null
pod wrong | apply story-held
running story-held wrong
has_identity story-held wrong default
gone story-held
