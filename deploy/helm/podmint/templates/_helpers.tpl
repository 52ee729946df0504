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

{{- /* One PodSigner document for each signer. */ -}}
{{- define "podmint.config" -}}
{{- range $key, $spec := .Values.signers }}
---
apiVersion: podmint.dev/v1alpha1
kind: PodSigner
metadata: {name: {{ $key }}}
spec:
  signerName: {{ $.Values.signerDomain }}/{{ $key }}
  {{- toYaml $spec | nindent 2 }}
{{- end }}
{{- end -}}
