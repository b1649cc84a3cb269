{{/* Name of everything of this release. Short, because it stands in labels and in names of cluster-wide objects. */}}
{{- define "ringfence.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "ringfence.labels" -}}
app.kubernetes.io/name: ringfence
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* The orchestrator's own account, its role in a run's namespace, and how admission knows it. */}}
{{- define "ringfence.orchestrator" -}}{{ include "ringfence.name" . }}-orchestrator{{- end -}}
{{- define "ringfence.runManager" -}}{{ include "ringfence.name" . }}-run-manager{{- end -}}
{{- define "ringfence.username" -}}system:serviceaccount:{{ .Release.Namespace }}:{{ include "ringfence.orchestrator" . }}{{- end -}}

{{/* Which runs are this installation's: the value of the label ringfence/instance on their namespaces. */}}
{{- define "ringfence.instance" -}}{{ default (include "ringfence.name" .) .Values.sandbox.instance }}{{- end -}}
