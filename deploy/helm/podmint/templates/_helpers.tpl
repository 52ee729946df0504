{{- /* What no schema can say and the API server would refuse, one object after another. */ -}}
{{- define "podmint.slips" -}}
{{- range $key, $signer := .Values.signers -}}
  {{- $rules := dict -}}
  {{- range $signer.allow -}}
    {{- if hasKey $rules .name -}}
      {{- fail (printf "signers.%s.allow has two rules with the name %s: give each a name of its own" $key .name) -}}
    {{- end -}}
    {{- $_ := set $rules .name true -}}
  {{- end -}}
  {{- with dig "lifetime" "refreshAt" list $signer -}}
    {{- if gt (index . 0 | float64) (index . 1 | float64) -}}
      {{- fail (printf "signers.%s.lifetime.refreshAt: the earlier of the two comes first" $key) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "podmint.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The Secrets that the signer keeps its CAs in, as a JSON list. Never empty: to RBAC an empty list of names means every Secret. */ -}}
{{- define "podmint.secrets" -}}
{{- $owners := dict -}}
{{- range $key, $signer := .Values.signers -}}
  {{- $authority := dig "authority" (dict) $signer -}}
  {{- $from := $authority.selfManaged | default $authority.secret | default $authority.files | default dict -}}
  {{- $own := $from.secretName | default "podmint-ca" -}}
  {{- $root := $from.rootSecretName | default (printf "%s-root" $own) -}}
  {{- range $name := list $own $root -}}
    {{- with get $owners $name -}}
      {{- fail (printf "signers.%s and signers.%s keep their CAs in one Secret, %s: give the new one of the two a secretName of its own below its authority (podmint-ca-<its name>), and never change that of one that issues" . $key $name) -}}
    {{- end -}}
    {{- $_ := set $owners $name $key -}}
  {{- end -}}
{{- end -}}
{{- range $key, $signer := .Values.signers -}}
  {{- with dig "authority" "secret" "name" "" $signer -}}
    {{- with get $owners . -}}
      {{- fail (printf "signers.%s brings its CA in the Secret that signers.%s keeps what it signs with in: bring it in another (authority.secret.name)" $key .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- keys $owners | sortAlpha | default (list "podmint-ca" "podmint-ca-root") | toJson -}}
{{- end -}}

{{- /* The Secrets that CAs are brought in, as a JSON list; nothing where there is none. */ -}}
{{- define "podmint.brought" -}}
{{- $names := list -}}
{{- range .Values.signers -}}
  {{- with dig "authority" "secret" "name" "" . -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- with $names }}{{ toJson . }}{{ end -}}
{{- end -}}

{{- /* Helm installs what is in crds/ and never upgrades it, and it cannot make a CRD and objects of it in one go otherwise. So an upgrade
       with another CRD in the cluster than this chart's stops here, before anything is changed. Without a cluster nothing is looked up. */ -}}
{{- define "podmint.crd" -}}
{{- if lookup "v1" "Namespace" "" .Release.Namespace -}}
  {{- $wanted := index (.Files.Get "crds/podsigners.yaml" | fromYaml) "metadata" "annotations" "podmint.dev/schema" -}}
  {{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "podsigners.podmint.dev" -}}
  {{- if and (or $there .Release.IsUpgrade) (ne $wanted (dig "metadata" "annotations" "podmint.dev/schema" "" $there)) -}}
    {{- fail "the CRD podsigners.podmint.dev in the cluster is not this chart's: run `kubectl apply --server-side --force-conflicts -f` with the chart's folder crds, and then this again" -}}
  {{- end -}}
  {{- range $key, $signer := .Values.signers -}}
    {{- $name := printf "%s/%s" $.Values.signerDomain $key -}}
    {{- $before := dig "spec" "signerName" $name (lookup "podmint.dev/v1alpha1" "PodSigner" "" $key) -}}
    {{- if ne $before $name -}}
      {{- fail (printf "PodSigner %s signs as %s, and a signer name never changes: keep signerDomain, or add signers under another key and retire this one when no pod asks for it any more" $key $before) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
