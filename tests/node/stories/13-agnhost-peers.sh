# upstream's mtlsserver and mtlsclient work with our certificates, by Service name, and with our echo pair, both ways
# quiet

namespace story-peers
kube -n story-peers create serviceaccount caller >/dev/null
examples=podmint.dev/podmint-examples:$(sed -n 's/^version: //p' "$chart/Chart.yaml") agnhost=podmint.dev/node/agnhost:1
identity=spiffe://$trust_domain/ns/story-peers/sa
# named NAME [KEY=VALUE …]   a pod whose certificate has the names of its Services
named() { pod "$@" signer_name=podmint.dev/named; }
# runs IMAGE COMMAND ARGUMENT …   a filter: the pod runs this
runs() {
  local image=$1 command=$2
  shift 2
  sed -e "s#$agnhost#$image#" -e "s#args: \[pause\]#command: [$command]\n      args: [$(printf '"%s", ' "$@")]#"
}
says() { grep -qE "$2" <<<"$(kube -n story-peers logs "$1" 2>/dev/null)"; }

# A server of upstream's and one of ours, each behind a Service.
for name in upstream ours; do kube -n story-peers create service clusterip $name --tcp=8443 >/dev/null; done
named upstream | runs $agnhost /agnhost mtlsserver --listen=0.0.0.0:8443 --server-creds=/identity/bundle.pem --spiffe-trust-bundle=/identity/trust.pem | apply story-peers
named ours | runs "$examples" /echo-server --credentials=/identity/bundle.pem --trust=/identity/trust.pem --trust-domain=$trust_domain \
  --listen=0.0.0.0:8443 --allow="$identity/caller" | apply story-peers
for name in upstream ours; do
  running story-peers $name
  names=$(file_of story-peers $name bundle.pem | openssl x509 -noout -ext subjectAltName)
  for form in "DNS:$name.story-peers.svc" "DNS:$name.story-peers.svc.cluster.local" "URI:$identity/default"; do
    grep -qE "$form(,|\$)" <<<"$names" || fail "the certificate of $name lacks $form: $names"
  done
done

# Upstream's client: it goes by the Service name, and its server by the SPIFFE ID.
fetch() { runs $agnhost /agnhost mtlsclient --fetch-url="https://$1.story-peers.svc.cluster.local:8443/spiffe-echo" --server-trust-bundle=/identity/trust.pem --client-cred-bundle=/identity/bundle.pem; }
named fetches account=caller | fetch upstream | apply story-peers
until_true 120 "upstream's client is not known by upstream's server" says fetches "Client Identity: $identity/caller"
address=$(kube -n story-peers get pod upstream -o jsonpath='{.status.podIP}')
said=$(inside curl -sk "https://$address:8443/spiffe-echo")
[ "$said" = "SPIFFE client certificate authentication required" ] || fail "a caller without a certificate was told: $said"

# Theirs to ours, ours to theirs. One speaks HTTP and the other lines: they verify one another, and then do not understand what they hear.
named visits account=caller | fetch ours | apply story-peers
until_true 120 "our server does not meet upstream's client" says ours "talking to $identity/caller"
named talks account=caller | runs "$examples" /echo-client --credentials=/identity/bundle.pem --trust=/identity/trust.pem --trust-domain=$trust_domain \
  --connect=upstream.story-peers.svc.cluster.local:8443 --server-id="$identity/default" | apply story-peers
until_true 120 "our client does not take upstream's server for what it is" says talks "the echo differs"
named other account=caller | runs "$examples" /echo-client --credentials=/identity/bundle.pem --trust=/identity/trust.pem --trust-domain=$trust_domain \
  --connect=upstream.story-peers.svc.cluster.local:8443 --server-id="$identity/another" | apply story-peers
until_true 120 "our client takes upstream's server for another" says other "$identity/default.*not allowed"
! says other "the echo differs" || fail "our client talks to a server that it does not expect"
gone story-peers
