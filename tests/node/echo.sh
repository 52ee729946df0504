# What the stories ask the echo pair; its names in the API, its files on the node, its own words.

echo_pod() { kube -n echo get pods -l "app=echo-$1" --field-selector status.phase=Running -o 'jsonpath={.items[0].metadata.name}'; }
echo_log() { kube -n echo logs "deployment/echo-$1" --tail=-1; }
echo_serials() { for side in server client; do serial_of echo "$(echo_pod "$side")"; done; }

# Certificates of the other side that a side has seen, of its own it has taken up: lines so far.
echo_count() { echo_log "$1" | grep -c "$2" || true; }

# Starts the pair of this file, unless it is there, until it talks.
echo_up() {
  local side
  kube apply -f "$1" >/dev/null
  for side in server client; do
    kube -n echo rollout status "deployment/echo-$side" --timeout 180s >/dev/null || fail "echo-$side did not start"
  done
  until_true 120 "the client does not talk to the server" echo_has_talked
  echo_is_talking
}
echo_has_talked() { [ "$(echo_count client 'talking to spiffe://')" -ge 1 ]; }

# The pair talks. What the logs say up to here is no story's business: a client that is up before its server is refused.
echo_is_talking() {
  echo_has_talked || fail "the echo pair is not talking: run story 02, too"
  for side in server client; do echo_log "$side" | wc -l >"$dir/tmp/echo-$side.seen"; done
}

# No handshake has failed and no conversation has broken off since.
echo_never_failed() {
  local side bad
  for side in server client; do
    bad=$(echo_log "$side" | tail -n "+$(($(cat "$dir/tmp/echo-$side.seen") + 1))" | grep -E "handshake failed|no connection to|broke off" | tail -2) || true
    [ -z "$bad" ] || fail "echo-$side: $bad"
  done
}

# Each side has seen the certificate that is now in the other's volume.
echo_uses_new_certificates() {
  until_true 120 "the client did not meet the server's new certificate" echo_met client server
  until_true 120 "the server did not meet the client's new certificate" echo_met server client
}
echo_met() {
  local serial
  serial=$(serial_of echo "$(echo_pod "$2")" | sed 's/serial=//')
  [ -n "$serial" ] && grep -qi "talking to.*$serial" <<<"$(echo_log "$1" | tr -d ':')"
}
