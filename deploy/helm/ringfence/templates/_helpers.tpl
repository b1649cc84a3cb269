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

{{- define "ringfence.image" -}}
{{- if .Values.image.digest -}}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{- end -}}
{{- end -}}

{{- define "ringfence.keys" -}}{{ default (printf "%s-keys" (include "ringfence.name" .)) .Values.keys.secret }}{{- end -}}
{{- define "ringfence.claim" -}}{{ default (printf "%s-state" (include "ringfence.name" .)) .Values.state.claim }}{{- end -}}

{{/* What selects the pods of one component. Sandboxes open to pods with ringfence/component=control-plane only. */}}
{{- define "ringfence.selector" -}}
app.kubernetes.io/name: ringfence
app.kubernetes.io/instance: {{ .root.Release.Name }}
ringfence/part: {{ .part }}
{{- end -}}

{{/* Restricted Pod Security, for ourselves too. */}}
{{- define "ringfence.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "ringfence.security" -}}
{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, capabilities: {drop: [ALL]}}
{{- end -}}

{{/* The setting RINGFENCE_KUBERNETES: what `ringfence.cluster.ClusterForm` reads. */}}
{{- define "ringfence.cluster" -}}
{{- $form := dict "image" .Values.sandbox.image "inside_image" .Values.sandbox.insideImage
  "instance" (include "ringfence.instance" .) "image_pull_policy" .Values.sandbox.pullPolicy
  "namespace" .Release.Namespace "run_manager_role" (include "ringfence.runManager" .)
  "service_account" (include "ringfence.orchestrator" .) "storage_class" .Values.sandbox.storageClass
  "has_storage_limits" .Values.sandbox.storageLimits "has_user_namespaces" .Values.sandbox.userNamespaces
  "control_cidrs" .Values.sandbox.controlCidrs "cpu_request_milli" .Values.sandbox.cpuRequestMilli
  "memory_request_mib" .Values.sandbox.memoryRequestMib -}}
{{- $form | toJson -}}
{{- end -}}

{{/* The same with the way out and the prepared namespaces, for what drives runs and holds the keys. */}}
{{- define "ringfence.clusterWhole" -}}
{{- $form := include "ringfence.cluster" . | fromJson -}}
{{- if .Values.egress.enabled -}}
{{- $egress := dict "key" "/var/lib/ringfence/state/egress-proxy.secret" "port" 3128 -}}
{{- if .Values.egress.address -}}{{- $egress = merge $egress (dict "address" .Values.egress.address "cidr" .Values.egress.cidr) -}}{{- end -}}
{{- $form = merge $form (dict "egress" $egress) -}}
{{- end -}}
{{- with .Values.sandbox.pool -}}{{- $form = merge $form (dict "pool" .) -}}{{- end -}}
{{- $form | toJson -}}
{{- end -}}

{{- define "ringfence.env" -}}
- {name: RINGFENCE_HOME, value: /var/lib/ringfence/state}
- {name: RINGFENCE_CONFIG, value: /etc/ringfence}
- {name: RINGFENCE_DATABASE_URL, valueFrom: {secretKeyRef: {name: {{ .Values.database.secret | quote }}, key: dsn}}}
- {name: RINGFENCE_KUBERNETES, value: {{ include "ringfence.clusterWhole" . | quote }}}
- {name: HOME, value: /tmp}
{{- with .Values.egress.settings }}
- {name: RINGFENCE_EGRESS, value: {{ . | toJson | quote }}}
{{- end }}
{{- if .Values.model.baseUrl }}
- {name: OPENAI_BASE_URL, value: {{ .Values.model.baseUrl | quote }}}
{{- end }}
{{- if .Values.model.name }}
- {name: OPENAI_MODEL, value: {{ .Values.model.name | quote }}}
{{- end }}
{{- if .Values.model.secret }}
- {name: OPENAI_API_KEY, valueFrom: {secretKeyRef: {name: {{ .Values.model.secret | quote }}, key: api-key}}}
{{- end }}
{{- end -}}

{{- define "ringfence.mounts" -}}
- {name: state, mountPath: /var/lib/ringfence}
- {name: config, mountPath: /etc/ringfence, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "ringfence.volumes" -}}
- name: state
  {{- if .Values.state.enabled }}
  persistentVolumeClaim: {claimName: {{ include "ringfence.claim" . | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: 10Gi}
  {{- end }}
{{ include "ringfence.sharedVolumes" . }}
{{- end -}}

{{- define "ringfence.sharedVolumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 2Gi}}
- {name: keys, secret: {secretName: {{ include "ringfence.keys" . | quote }}, defaultMode: 288}}
- name: config
  projected:
    sources:
      - configMap: {name: {{ include "ringfence.name" . }}-config}
      - configMap:
          name: {{ include "ringfence.name" . }}-profiles
          items:
            {{- range $name, $_ := .Values.profiles }}
            - {key: {{ $name }}.yaml, path: profiles/{{ $name }}.yaml}
            {{- else }} []
            {{- end }}
{{- end -}}

{{/* The program insists on a folder and on keys that nobody else can read, which no mount can say by itself. */}}
{{- define "ringfence.takeKeys" -}}
- name: keys
  image: {{ include "ringfence.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - /bin/sh
    - -euc
    - |
      umask 077
      mkdir -p /var/lib/ringfence/state
      cd /var/lib/ringfence/state
      for key in audit.key people.key originals.key sandbox.key egress-proxy.secret; do
        cp "/keys/$key" ".$key.$HOSTNAME"
        mv ".$key.$HOSTNAME" "$key"
      done
  securityContext: {{ include "ringfence.security" . }}
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
  volumeMounts:
    - {name: state, mountPath: /var/lib/ringfence}
    - {name: keys, mountPath: /keys, readOnly: true}
{{- end -}}

{{/* The attacks of `ringfence doctor --cluster`: nothing that drives runs starts where one succeeds. */}}
{{- define "ringfence.attack" -}}
- name: attack
  image: {{ include "ringfence.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [ringfence, doctor, --cluster]
  env: {{- include "ringfence.env" . | nindent 4 }}
  securityContext: {{ include "ringfence.security" . }}
  resources: {requests: {cpu: 10m, memory: 128Mi}, limits: {memory: 512Mi}}
  volumeMounts: {{- include "ringfence.mounts" . | nindent 4 }}
{{- end -}}

{{- define "ringfence.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
