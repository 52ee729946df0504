# a restarted kubelet re-keys every pod, and no handshake fails

. "$here/echo.sh"
echo_is_talking
namespace story-restart
for n in 1 2 3; do pod "p$n" | apply story-restart; done
for n in 1 2 3; do running story-restart "p$n"; done
before=$(echo_serials && for n in 1 2 3; do serial_of story-restart "p$n"; done)
[ "$(sort -u <<<"$before" | wc -l)" = 5 ] || fail "not five certificates to begin with"

begun=$(now_ms)
restart kubelet
rekeyed() { { echo_serials && for n in 1 2 3; do serial_of story-restart "p$n"; done; } | all_new 5 "$before"; }
until_true 180 "not every pod got another certificate" rekeyed
fact "kubelet restart to five pods re-keyed: $(($(now_ms) - begun)) ms"
for n in 1 2 3; do has_identity story-restart "p$n" default; done
echo_uses_new_certificates
echo_never_failed
gone story-restart
