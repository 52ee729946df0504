# upstream's mtlsserver knows our pods by their SPIFFE ID; its client wants a DNS name, which our certificates do not carry
# quiet

namespace story-peers
peer() { # NAME ARGUMENTS   an agnhost pod that runs upstream's program over our files
  pod "$1" | sed "s#args: \[pause\]#args: [$2]#" | apply story-peers
}
says() { kube -n story-peers logs "$1" 2>/dev/null | grep -qE "$2"; }

peer server "mtlsserver, '--listen=0.0.0.0:8443', --server-creds=/identity/bundle.pem, --spiffe-trust-bundle=/identity/trust.pem"
kube -n story-peers create serviceaccount caller >/dev/null
pod caller account=caller | apply story-peers
running story-peers server
running story-peers caller
has_identity story-peers caller caller
address=$(kube -n story-peers get pod server -o jsonpath='{.status.podIP}')
volume=$(volume_of story-peers caller)

# The server's certificate by the roots in the caller's pod; the caller's by what the server says it saw.
until_true 20 "upstream's server does not listen" inside curl -sk -o /dev/null "https://$address:8443/spiffe-echo"
inside openssl s_client -connect "$address:8443" -CAfile "$volume/trust.pem" -verify_return_error -brief </dev/null >"$dir/tmp/said" 2>&1 ||
  fail "the server's certificate does not verify: $(tail -1 "$dir/tmp/said")"
call() { inside curl -sk "$@" "https://$address:8443/spiffe-echo"; }
said=$(call)
[ "$said" = "SPIFFE client certificate authentication required" ] || fail "a caller without a certificate was told: $said"
said=$(call --cert "$volume/bundle.pem" --key "$volume/bundle.pem")
grep -qF "spiffe://$trust_domain/ns/story-peers/sa/caller" <<<"$said" || fail "upstream's server did not know the caller: $said"

kube -n story-peers expose pod server --port 8443 >/dev/null
peer client "mtlsclient, '--fetch-url=https://server.story-peers.svc.cluster.local:8443/spiffe-echo', --server-trust-bundle=/identity/trust.pem, --client-cred-bundle=/identity/bundle.pem"
until_true 60 "upstream's client did not say that it wants a name" says client "not valid for any names|doesn't contain any (IP|DNS)|legacy Common Name"
fact "upstream's client: $(kube -n story-peers logs client | grep -oE 'tls: .*|x509: .*' | tail -1)"
gone story-peers
