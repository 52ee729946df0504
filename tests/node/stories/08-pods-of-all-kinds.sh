# six key types; init containers; several users; a recreated StatefulSet pod and ServiceAccount; Jobs and CronJobs
# quiet

namespace story-kinds
# A CronJob makes a Job each minute while the rest goes on.
job=$(pod job extra='  restartPolicy: Never' | sed 's/args: \[pause\]/args: [test-webserver, --help]/' | kube create --dry-run=client -f - -o json | jq -c '{spec: {backoffLimit: 0, template: {metadata: {labels: .metadata.labels}, spec}}}')
jq -c '{apiVersion: "batch/v1", kind: "CronJob", metadata: {name: "timed"}, spec: {schedule: "* * * * *", jobTemplate: .}}' <<<"$job" | apply story-kinds
for key in RSA3072 RSA4096 ECDSAP256 ECDSAP384 ECDSAP521 ED25519; do pod "$(tr '[:upper:]' '[:lower:]' <<<"$key")" key=$key | apply story-kinds; done
for key in RSA3072 RSA4096 ECDSAP256 ECDSAP384 ECDSAP521 ED25519; do
  name=$(tr '[:upper:]' '[:lower:]' <<<"$key")
  running story-kinds "$name" 150
  has_identity story-kinds "$name" default
  said=$(file_of story-kinds "$name" bundle.pem | openssl x509 -noout -text | grep -E 'Public-Key|NIST CURVE|ED25519 Public' | tr -s ' \n' ' ')
  case $key:$said in
    RSA3072:*3072*) ;; RSA4096:*4096*) ;; ECDSAP256:*P-256*) ;; ECDSAP384:*P-384*) ;; ECDSAP521:*P-521*) ;; ED25519:*ED25519*) ;;
    *) fail "asked for $key, got $said" ;;
  esac
done

# The key is readable by the pod's group and nobody else; its links and its folder are the kubelet's.
modes=$(inside stat -L -c '%a %u:%g' "$(volume_of story-kinds ecdsap256)/bundle.pem")
[ "$modes" = "640 65532:65532" ] || fail "with fsGroup the key has mode and owner $modes"

# An init container that needs the identity before the others start.
pod init extra="  initContainers: [{name: first, image: 'podmint.dev/node/agnhost:1', imagePullPolicy: Never, args: [test-webserver, --help], securityContext: {runAsUser: 65532}, volumeMounts: [{name: identity, mountPath: /identity, readOnly: true}]}]" | apply story-kinds
running story-kinds init
has_identity story-kinds init default

# Two users in one pod: the kubelet can give the file to neither, so the group does it.
pod users extra="  initContainers: [{name: other, image: 'podmint.dev/node/agnhost:1', imagePullPolicy: Never, restartPolicy: Always, args: [pause], securityContext: {runAsUser: 1234}, volumeMounts: [{name: identity, mountPath: /identity, readOnly: true}]}]" | apply story-kinds
running story-kinds users
modes=$(inside stat -L -c '%a %u:%g' "$(volume_of story-kinds users)/bundle.pem")
case $modes in *" 0:65532") ;; *) fail "with two users and fsGroup the key has mode and owner $modes" ;; esac
fact "two users, one fsGroup: bundle.pem has $modes"

# A StatefulSet's pod: the same name, another UID, another certificate.
{
  echo '{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: set}, spec: {serviceName: set, selector: {matchLabels: {app: set}}, template:' 
  pod set | kube create --dry-run=client -f - -o json | jq '{metadata: {labels: .metadata.labels}, spec}'
  echo '}}'
} | apply story-kinds
until_true 120 "pod set-0 was not made" kube -n story-kinds get pod set-0
running story-kinds set-0
first=$(serial_of story-kinds set-0) uid=$(kube -n story-kinds get pod set-0 -o jsonpath='{.metadata.uid}')
kube -n story-kinds delete pod set-0 --timeout 120s >/dev/null
reborn() { now=$(kube -n story-kinds get pod set-0 -o jsonpath='{.metadata.uid}') && [ -n "$now" ] && [ "$now" != "$uid" ]; }
until_true 120 "pod set-0 was not made again" reborn
running story-kinds set-0
has_identity story-kinds set-0 default
[ "$(serial_of story-kinds set-0)" != "$first" ] || fail "the recreated pod has its predecessor's certificate"

# A ServiceAccount of the same name made again: pods made after it get certificates.
kube -n story-kinds create serviceaccount again >/dev/null
pod account1 account=again | apply story-kinds
running story-kinds account1
kube -n story-kinds delete serviceaccount again >/dev/null
kube -n story-kinds create serviceaccount again >/dev/null
pod account2 account=again | apply story-kinds
running story-kinds account2
has_identity story-kinds account2 again

# A Job's pod ends; nothing is asked for it again.
jq -c '. + {apiVersion: "batch/v1", kind: "Job", metadata: {name: "once"}}' <<<"$job" | apply story-kinds
kube -n story-kinds wait --for=condition=complete job/once --timeout 180s >/dev/null || fail "the Job did not complete"
[ "$(requests_of story-kinds "$(kube -n story-kinds get pods -l job-name=once -o 'jsonpath={.items[0].metadata.name}')" '{.metadata.name}' | wc -l)" = 1 ] ||
  fail "not one request for a Job's pod"

# The CronJob's minute has come meanwhile.
completed() { kube -n story-kinds get jobs -o json | jq -e '[.items[] | select(.metadata.ownerReferences[0].name == "timed" and .status.succeeded == 1)] | length > 0' >/dev/null; }
until_true 150 "the CronJob's pod did not complete" completed
gone story-kinds
