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
  "sandboxed_runtimes" .Values.sandbox.sandboxedRuntimes
  "control_cidrs" .Values.sandbox.controlCidrs "cpu_request_milli" .Values.sandbox.cpuRequestMilli
  "memory_request_mib" .Values.sandbox.memoryRequestMib -}}
{{- $form | toJson -}}
{{- end -}}

{{/* The same with the way out and the prepared namespaces, for what drives runs and holds the keys. */}}
{{- define "ringfence.clusterWhole" -}}
{{- $form := include "ringfence.cluster" . | fromJson -}}
{{- if .Values.egress.enabled -}}
{{- $egress := dict "key" "/run/ringfence/keys/egress-proxy.secret" "port" 3128 -}}
{{- if .Values.egress.address -}}{{- $egress = merge $egress (dict "address" .Values.egress.address "cidr" .Values.egress.cidr) -}}{{- end -}}
{{- $form = merge $form (dict "egress" $egress) -}}
{{- end -}}
{{- with .Values.sandbox.pool -}}{{- $form = merge $form (dict "pool" .) -}}{{- end -}}
{{- $form | toJson -}}
{{- end -}}

{{/* What every part that opens the log is told. */}}
{{- define "ringfence.env" -}}
- {name: RINGFENCE_HOME, value: /var/lib/ringfence/state}
- {name: RINGFENCE_KEYS, value: /run/ringfence/keys}
- {name: RINGFENCE_DATABASE_URL, valueFrom: {secretKeyRef: {name: {{ .Values.database.secret | quote }}, key: dsn}}}
- {name: HOME, value: /tmp}
{{- with .Values.egress.settings }}
- {name: RINGFENCE_EGRESS, value: {{ . | toJson | quote }}}
{{- end }}
{{- end -}}

{{/* What a part that takes tasks is told besides, and the model's key where it drives runs. Takes root and drives. */}}
{{- define "ringfence.taskEnv" -}}
- {name: RINGFENCE_CONFIG, value: /etc/ringfence}
- {name: RINGFENCE_KUBERNETES, value: {{ include "ringfence.clusterWhole" .root | quote }}}
{{- with .root.Values.model }}
{{- if .baseUrl }}
- {name: OPENAI_BASE_URL, value: {{ .baseUrl | quote }}}
{{- end }}
{{- if .name }}
- {name: OPENAI_MODEL, value: {{ .name | quote }}}
{{- end }}
{{- if and .secret $.drives }}
- {name: OPENAI_API_KEY, valueFrom: {secretKeyRef: {name: {{ .secret | quote }}, key: api-key}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The attacks need an identity and nothing else: no key, no database. */}}
{{- define "ringfence.attackEnv" -}}
- {name: RINGFENCE_HOME, value: /tmp/ringfence}
- {name: HOME, value: /tmp}
- {name: RINGFENCE_KUBERNETES, value: {{ include "ringfence.cluster" . | quote }}}
{{- end -}}

{{/* The keys that a part opens, and no other reaches its pod. Takes root, part and drives. */}}
{{- define "ringfence.keyNames" -}}
{{- $keys := list "audit.key" "originals.key" -}}
{{- if eq .part "console" -}}{{- $keys = append $keys "people.key" -}}{{- end -}}
{{- if .drives -}}{{- $keys = append $keys "sandbox.key" -}}{{- end -}}
{{- if or (eq .part "egress") (and .drives .root.Values.egress.enabled) -}}{{- $keys = append $keys "egress-proxy.secret" -}}{{- end -}}
{{- join " " $keys -}}
{{- end -}}

{{- define "ringfence.mounts" -}}
- {name: state, mountPath: /var/lib/ringfence}
- {name: own-keys, mountPath: /run/ringfence}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* Volumes of a part that takes tasks. Takes root, part and drives. */}}
{{- define "ringfence.volumes" -}}
- name: state
  {{- if .root.Values.state.enabled }}
  persistentVolumeClaim: {claimName: {{ include "ringfence.claim" .root | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: 10Gi}
  {{- end }}
- name: config
  projected:
    sources:
      - configMap: {name: {{ include "ringfence.name" .root }}-config}
      - configMap:
          name: {{ include "ringfence.name" .root }}-profiles
          items:
            {{- range $name, $_ := .root.Values.profiles }}
            - {key: {{ $name }}.yaml, path: profiles/{{ $name }}.yaml}
            {{- else }} []
            {{- end }}
{{ include "ringfence.keyVolumes" . }}
{{- end -}}

{{/* The pod's own keys lie in its memory: the state may be one volume for all pods. Takes root, part and drives. */}}
{{- define "ringfence.keyVolumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 2Gi}}
- {name: own-keys, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- name: keys
  secret:
    secretName: {{ include "ringfence.keys" .root | quote }}
    defaultMode: 288
    items:
      {{- range splitList " " (include "ringfence.keyNames" .) }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}

{{/* The program insists on a folder and on keys that nobody else can read, which no mount can say by itself. */}}
{{- define "ringfence.takeKeys" -}}
- name: keys
  image: {{ include "ringfence.image" .root | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command:
    - /bin/sh
    - -euc
    - |
      umask 077
      mkdir -p /var/lib/ringfence/state /run/ringfence/keys
      cd /keys
      cp {{ include "ringfence.keyNames" . }} /run/ringfence/keys/
  securityContext: {{ include "ringfence.security" .root }}
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
  volumeMounts:
    - {name: state, mountPath: /var/lib/ringfence}
    - {name: own-keys, mountPath: /run/ringfence}
    - {name: keys, mountPath: /keys, readOnly: true}
{{- end -}}

{{/* The attacks of `ringfence doctor --cluster`: nothing that drives runs starts where one succeeds. */}}
{{- define "ringfence.attack" -}}
- name: attack
  image: {{ include "ringfence.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [ringfence, doctor, --cluster]
  env: {{- include "ringfence.attackEnv" . | nindent 4 }}
  securityContext: {{ include "ringfence.security" . }}
  resources: {requests: {cpu: 10m, memory: 128Mi}, limits: {memory: 512Mi}}
  volumeMounts: [{name: tmp, mountPath: /tmp}]
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
