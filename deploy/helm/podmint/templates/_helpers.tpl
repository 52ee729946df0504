{{- define "podmint.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The Secrets that the signer keeps its CAs in, as a JSON list. Never empty: to RBAC an empty list of names means every Secret. */ -}}
{{- define "podmint.secrets" -}}
{{- $names := list -}}
{{- range $key, $signer := .Values.signers -}}
  {{- $authority := dig "authority" (dict) $signer -}}
  {{- $from := $authority.selfManaged | default $authority.secret | default $authority.files | default dict -}}
  {{- $own := $from.secretName | default "podmint-ca" -}}
  {{- $root := $from.rootSecretName | default (printf "%s-root" $own) -}}
  {{- if or (has $own $names) (has $root $names) -}}
    {{- $kind := keys $authority | first | default "selfManaged" -}}
    {{- fail (printf "signers.%s keeps its CA in a Secret of another signer: set signers.%s.authority.%s.secretName, as podmint-ca-%s" $key $key $kind $key) -}}
  {{- end -}}
  {{- $names = concat $names (list $own $root) -}}
{{- end -}}
{{- $names | default (list "podmint-ca" "podmint-ca-root") | toJson -}}
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
{{- end -}}
{{- end -}}
