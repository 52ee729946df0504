# a node that loses power comes back, and its pods with identities

. "$here/echo.sh"
echo_is_talking
containers() { kube -n echo get pods -o json | jq -r '.items[].status.containerStatuses[0] | select(.state.running) | .containerID'; }
before=$(echo_serials) old=$(containers)
begun=$(now_ms)
power_off
[ ! -e "$dir/init.pid" ] || fail "the machine is still there"
machine_up
cluster_ready
back() { echo_serials | all_new 2 "$before"; }
until_true 180 "the echo pair did not come back" back
fact "power on to both pods renewed: $(($(now_ms) - begun)) ms"
# Containers start again, counters at nought: what they say is about this life, once the kubelet shows no log of before.
started_anew() {
  local now
  now=$(containers)
  [ "$(grep -c . <<<"$now")" = 2 ] && ! grep -qxF "$old" <<<"$now"
}
until_true 120 "the containers did not start anew" started_anew
talking_again() { [ "$(echo_count client "talking to spiffe://")" -ge 1 ]; }
until_true 120 "the pair does not talk again" talking_again
echo_uses_new_certificates
