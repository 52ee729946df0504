# a stolen node's identity, and a namespace's administrator, obtain nothing for other pods

namespace story-theft
pod victim | apply story-theft
running story-theft victim
kube apply -f - >/dev/null <<'EOF'
apiVersion: v1
kind: Node
metadata: {name: node-2}
EOF
kube create clusterrole story-theft --verb=create --resource=podcertificaterequests >/dev/null
kube -n story-theft create rolebinding story-theft --clusterrole story-theft --user system:serviceaccount:story-theft:admin >/dev/null
until_true 60 "a namespace's administrator may not make requests" kube --as system:serviceaccount:story-theft:admin -n story-theft auth can-i create podcertificaterequests

json() { kube -n story-theft get "$@" -o json; }
openssl ecparam -name prime256v1 -genkey -noout -out "$dir/tmp/thief.key"
printf '[req]\ndistinguished_name=dn\nprompt=no\n[dn]\n' >"$dir/tmp/thief.cnf"
csr=$(openssl req -new -config "$dir/tmp/thief.cnf" -key "$dir/tmp/thief.key" -subj / -outform DER | base64 -w0)
request() { # NODE NODE_UID   prints a request for the victim's pod, with the thief's key
  json pod victim | jq --arg node "$1" --arg uid "$2" --arg csr "$csr" --arg signer "$signer_name" --arg account "$(json serviceaccount default | jq -r .metadata.uid)" '{
    apiVersion: "certificates.k8s.io/v1", kind: "PodCertificateRequest", metadata: {generateName: "theft-", namespace: .metadata.namespace},
    spec: {signerName: $signer, podName: .metadata.name, podUID: .metadata.uid, serviceAccountName: .spec.serviceAccountName,
      serviceAccountUID: $account, nodeName: $node, nodeUID: $uid, maxExpirationSeconds: 3600, stubPKCS10Request: $csr}}'
}
own=$(kube get node "$node" -o jsonpath='{.metadata.uid}') other=$(kube get node node-2 -o jsonpath='{.metadata.uid}')
refused() { # WHO WHY COMMAND …
  local who=$1 why=$2 said
  shift 2
  ! said=$("$@" 2>&1) || fail "$who got a request in: $said"
  fact "$who: ${said##*: }"
  grep -qiE "$why" <<<"$said" || fail "$who was refused for another reason: $said"
}
request node-2 "$other" >"$dir/tmp/from-own.json"
request "$node" "$own" >"$dir/tmp/as-victims.json"
refused "another node's kubelet, naming itself" "forbidden|not running on" kube_as node-2 create -f "$dir/tmp/from-own.json"
refused "another node's kubelet, naming the victim's node" "forbidden|not running on|node" kube_as node-2 create -f "$dir/tmp/as-victims.json"
refused "a namespace's administrator" "podmint-requests|kubelet" kube --as system:serviceaccount:story-theft:admin create -f "$dir/tmp/as-victims.json"
refused "the cluster's administrator" "podmint-requests|kubelet" kube create -f "$dir/tmp/as-victims.json"
[ -z "$(kube -n story-theft get podcertificaterequests -o name | grep theft)" ] || fail "a thief's request is there"

# Answering is the signer's alone, also for an administrator. While it is down there is a request to try it on.
signer_down
pod waiting | apply story-theft
until_true 60 "the kubelet made no request" asked story-theft waiting
name=$(requests_of story-theft waiting '{.metadata.name}' | sed -n 1p)
denial='{"status": {"conditions": [{"type": "Denied", "status": "True", "reason": "Theft", "message": "x", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}'
refused "an administrator who denies a request" "podmint-answers|signer" kube -n story-theft patch podcertificaterequest "$name" --subresource status --type merge -p "$denial"
signer_up
running story-theft waiting 150
has_identity story-theft waiting default
has_identity story-theft victim default
kube delete clusterrole story-theft >/dev/null
kube delete node node-2 >/dev/null
gone story-theft
