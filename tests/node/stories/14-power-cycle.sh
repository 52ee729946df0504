# a node that loses power comes back, and its pods with identities

. "$here/echo.sh"
echo_is_talking
before=$(echo_serials)
begun=$(now_ms)
power_off
[ ! -e "$dir/init.pid" ] || fail "the machine is still there"
machine_up
cluster_ready
back() { [ "$(echo_serials | grep -c serial=)" = 2 ] && [ -z "$(echo_serials | grep -xF "$before")" ]; }
until_true 180 "the echo pair did not come back" back
fact "power on to both pods renewed: $(($(now_ms) - begun)) ms"
# Containers start again, counters at nought: what they say now is about this life.
talking_again() { [ "$(echo_count client "talking to spiffe://")" -ge 1 ]; }
until_true 60 "the pair does not talk again" talking_again
echo_uses_new_certificates
