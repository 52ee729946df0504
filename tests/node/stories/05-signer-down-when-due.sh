# credentials come due while the signer is down: nothing breaks, and renewals catch up

. "$here/echo.sh"
echo_is_talking
signer_down
before=$(echo_serials)
# A restarted kubelet has forgotten what it holds: every credential is due at once.
restart kubelet
pending() { [ "$(kube -n echo get podcertificaterequests -o json | jq '[.items[] | select(.status.conditions == null)] | length')" -ge 2 ]; }
until_true 120 "the kubelet asked for nothing" pending
stays 8 "a request was answered by nobody" pending
[ "$(echo_serials)" = "$before" ] || fail "files changed while nobody signed"
for side in server client; do phase_is echo "$(echo_pod "$side")" Running || fail "echo-$side no longer runs"; done
echo_never_failed

begun=$(now_ms)
signer_up
caught_up() { echo_serials | all_new 2 "$before"; }
until_true 180 "renewals did not catch up" caught_up
fact "signer back to both pods renewed: $(($(now_ms) - begun)) ms"
echo_uses_new_certificates
echo_never_failed
