{{- define "podmint.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The Secrets of all CAs, as a JSON list. Never empty: to RBAC an empty list of names means every Secret. */ -}}
{{- define "podmint.secrets" -}}
{{- $names := list -}}
{{- range $key, $signer := .Values.signers -}}
  {{- $own := dig "authority" "selfManaged" "secretName" "podmint-ca" $signer -}}
  {{- $root := dig "authority" "selfManaged" "rootSecretName" (printf "%s-root" $own) $signer -}}
  {{- if or (has $own $names) (has $root $names) -}}
    {{- fail (printf "signers.%s keeps its CA in a Secret of another signer: set signers.%s.authority.selfManaged.secretName, as podmint-ca-%s" $key $key $key) -}}
  {{- end -}}
  {{- $names = concat $names (list $own $root) -}}
{{- end -}}
{{- $names | default (list "podmint-ca" "podmint-ca-root") | toJson -}}
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
{{- end -}}
{{- end -}}
